"""The table of back-ends."""

from __future__ import annotations

from collections.abc import Mapping

from aigc_runtime.backends.base import Backend
from aigc_runtime.backends.ort.backend import ORT
from aigc_runtime.backends.trt.backend import TENSORRT, TENSORRT_RTX
from aigc_runtime.core.plugins import look_up, plugin_names

__all__ = ["BACKENDS", "ENTRY_POINTS", "engine_packages", "get_backend"]

ENTRY_POINTS = "aigc_runtime.backends"
"""The group under which an installed package registers a `Backend`, by its kind of engine."""

BACKENDS: dict[str, Backend] = {ORT.kind: ORT, TENSORRT.kind: TENSORRT, TENSORRT_RTX.kind: TENSORRT_RTX}
"""Kind of engine -> back-end. A manifest cannot name code: only what is installed is looked up."""


def get_backend(kind: str) -> Backend:
    """Look up the back-end of a kind of engine.

    Raises:
        UnknownNameError: lists the kinds that are known here and the nearest.
        ConfigError: an installed package registers it, and it cannot be loaded.
    """
    return look_up(BACKENDS, kind, what="engine", group=ENTRY_POINTS, of=Backend)


def engine_packages() -> Mapping[str, tuple[str, ...]]:
    """The packages of all back-ends, for `probe_device`; a back-end of an installed package among them."""
    found: dict[str, tuple[str, ...]] = {}
    for kind in plugin_names(BACKENDS, group=ENTRY_POINTS):
        found.update(get_backend(kind).packages)
    return found
