"""What the host knows of each kind of pipeline, as one table; no other place branches on the kind."""

from __future__ import annotations

from aigc_export.workloads.base import Workload
from aigc_export.workloads.diffusion import DIFFUSION
from aigc_export.workloads.gan import GAN
from aigc_export.workloads.tensors import TENSORS
from aigc_export.workloads.text import TEXT
from aigc_export.workloads.text_to_image import TEXT_TO_IMAGE
from aigc_export.workloads.upscale import UPSCALE
from aigc_runtime.core.plugins import look_up
from aigc_runtime.errors import ConfigError

__all__ = ["ENTRY_POINTS", "WORKLOADS", "Workload", "get_workload"]

ENTRY_POINTS = "aigc_export.workloads"
"""The group under which an installed package registers a `Workload`, by its kind."""

WORKLOADS: dict[str, Workload] = {
    workload.kind: workload for workload in (TEXT, DIFFUSION, GAN, TENSORS, UPSCALE, TEXT_TO_IMAGE)
}
"""kind -> what the host knows of it."""


def get_workload(kind: str) -> Workload:
    """Find the workload of a kind of pipeline: in the table, else among those of installed packages.

    Raises:
        UnknownNameError: there is none of this kind.
        ConfigError: a package registers something else as one, or cannot be loaded.
    """
    found = look_up(WORKLOADS, kind, what="kind of pipeline", group=ENTRY_POINTS, of=Workload)
    if found.kind != kind:
        raise ConfigError(
            f"an installed package registers the workload {kind!r}, which is that of {found.kind!r}",
            hint="mend the package or remove it",
        )
    return found
