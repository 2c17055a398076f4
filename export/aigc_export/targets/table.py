"""The table of targets."""

from __future__ import annotations

from aigc_export.targets.base import Target
from aigc_export.targets.ort_cpu import ORT_CPU
from aigc_export.targets.ort_cuda import ORT_CUDA
from aigc_export.targets.tensorrt.target import TENSORRT, TENSORRT_RTX
from aigc_runtime.core.plugins import look_up, plugin_names

__all__ = ["ENTRY_POINTS", "TARGETS", "get_target", "known_targets"]

ENTRY_POINTS = "aigc_export.targets"
"""The group under which an installed package registers a `Target`."""

TARGETS: dict[str, Target] = {
    ORT_CPU.name: ORT_CPU,
    ORT_CUDA.name: ORT_CUDA,
    TENSORRT_RTX.name: TENSORRT_RTX,
    TENSORRT.name: TENSORRT,
}


def get_target(target: str | Target) -> Target:
    """Look up a target by its name; a target itself is returned as it is.

    Raises:
        UnknownNameError: lists the valid names and the nearest one.
        ConfigError: an installed package registers it, and it cannot be loaded.
    """
    if isinstance(target, Target):
        return target
    return look_up(TARGETS, target, what="target", group=ENTRY_POINTS, of=Target)


def known_targets() -> tuple[Target, ...]:
    """All targets: the house's own, then those of installed packages.

    Raises:
        ConfigError: one of a package cannot be loaded.
    """
    return tuple(get_target(name) for name in plugin_names(TARGETS, group=ENTRY_POINTS))
