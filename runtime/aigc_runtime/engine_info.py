"""How a manifest names its engine."""

from __future__ import annotations

from dataclasses import dataclass

from aigc_runtime.engine_build import EngineBuild
from aigc_runtime.errors import ConfigError
from aigc_runtime.providers import EngineProvider

__all__ = ["EngineInfo"]


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """Which back-end opens which file.

    Attributes:
        kind: of the back-end.
        file: that it opens.
        build: for an engine compiled for certain devices, which.
        provider: for a graph that something else than the CPU runs, what.
    """

    kind: str
    file: str
    build: EngineBuild | None = None
    provider: EngineProvider | None = None

    def __post_init__(self) -> None:
        if self.provider is not None and (self.kind != "onnxruntime" or self.build is not None):
            raise ConfigError(
                f"engine {self.kind!r} with provider {self.provider.name!r}",
                hint="only a graph of ONNX Runtime has one",
            )
