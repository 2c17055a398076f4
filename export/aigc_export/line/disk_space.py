"""Check before an export that the disks have room for what it will write."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from aigc_runtime.errors import OutputError

__all__ = ["WEIGHT_BITS", "check_space", "engine_bytes"]

WEIGHT_BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "fp8": 8, "int8": 8, "int8-weight": 8, "int4": 4, "auto": 4}
"""Of most weights of an engine; `auto` may choose the lowest."""


def engine_bytes(weights_bytes: int, precision: str) -> int:
    """Estimate the least size of an engine, from the size of its weights in 32 bits."""
    return weights_bytes * WEIGHT_BITS.get(precision, 4) // 32


def check_space(destination: Path | str, needed_bytes: int, *, graph_bytes: int = 0) -> None:
    """Check that an export can be written.

    The float graph is run from temporary files, with its weights beside it; then the engine is built among them, and
    copied to the bundle.

    Args:
        destination: the bundle's folder.
        needed_bytes: of the engine, at least.
        graph_bytes: of the float graph's weights.

    Raises:
        OutputError: a disk has less free; names the folder, what is needed and what there is.
    """
    target = Path(os.path.abspath(destination))  # noqa: PTH100 - as in `atomic_directory`
    place = next(parent for parent in target.parents if parent.exists())
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError as err:
        raise OutputError(
            "there is no folder for temporary files that can be written to",
            hint="free some space, or name one in the environment variable TMPDIR",
        ) from err
    both = place.stat().st_dev == temporary.stat().st_dev
    for folder, needed in ((temporary, max(needed_bytes, graph_bytes)), (place, needed_bytes * (1 + both))):
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise OutputError(
                f"{str(folder)!r} has {free:,} bytes free, and at least {needed:,} are needed",
                hint="free some space, or choose another place; temporary files go where the environment variable "
                "TMPDIR says. Nothing was begun",
            )
