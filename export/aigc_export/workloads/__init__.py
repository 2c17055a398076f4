"""What the host knows of each kind of pipeline, as one table; no other place branches on the kind."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from aigc_export.workloads.base import Workload
from aigc_export.workloads.diffusion import DIFFUSION
from aigc_export.workloads.gan import GAN
from aigc_export.workloads.tensors import TENSORS
from aigc_export.workloads.text import TEXT
from aigc_runtime.errors import ConfigError, UnknownNameError

__all__ = ["ENTRY_POINTS", "WORKLOADS", "Workload", "get_workload"]

ENTRY_POINTS = "aigc_export.workloads"
"""The group in which an installed package names workloads of its own: kind = "module:WORKLOAD"."""

WORKLOADS: dict[str, Workload] = {workload.kind: workload for workload in (TEXT, DIFFUSION, GAN, TENSORS)}
"""kind -> what the host knows of it."""


def get_workload(kind: str) -> Workload:
    """Find the workload of a kind of pipeline: in the table, else among those of installed packages.

    Raises:
        UnknownNameError: there is none of this kind.
        ConfigError: a package names something else as one.
    """
    if kind in WORKLOADS:
        return WORKLOADS[kind]
    others = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if kind not in others:
        raise UnknownNameError("kind of pipeline", kind, [*WORKLOADS, *others])
    return _loaded(others[kind])


def _loaded(entry: EntryPoint) -> Workload:
    found = entry.load()
    if not isinstance(found, Workload) or found.kind != entry.name:
        raise ConfigError(
            f"the entry point {entry.name!r} of {ENTRY_POINTS!r} is {entry.value}, which is not its workload",
            hint=f"it must name a Workload(kind={entry.name!r}, ...)",
        )
    return found
