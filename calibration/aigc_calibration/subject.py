"""The subject of a calibration: a graph as its pipeline drives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aigc_calibration.onnx_function import Feeds
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.settings import Pipeline

__all__ = ["Subject"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The interface of a graph, and the settings of the pipeline that drives it.

    Attributes:
        interface: of the graph.
        settings: of the pipeline.
    """

    interface: Interface
    settings: Pipeline

    def session(self, function: Callable[[Feeds], Mapping[str, Array]]) -> ArraySession:
        """Make a session that the pipeline can drive from a function of all graph inputs."""
        return ArraySession(function, self.interface)
