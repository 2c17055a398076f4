"""A folder for temporary files that a signal does not leave behind."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from aigc_runtime.system.interrupts import interrupts_held

__all__ = ["temporary_folder"]


@contextlib.contextmanager
def temporary_folder(what: str) -> Iterator[Path]:
    """A new folder where TMPDIR says, removed at the end whatever happens.

    Args:
        what: a word for its name.

    Raises:
        OSError: there is no such place, or no space.
    """
    with interrupts_held():
        folder = tempfile.TemporaryDirectory(prefix=f"aigc-{what}-", ignore_cleanup_errors=True)
    try:
        yield Path(folder.name)
    finally:
        with interrupts_held():
            folder.cleanup()
