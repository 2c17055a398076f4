"""How a manifest names its engine, and what each format version knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aigc_runtime.engine_build import EngineBuild
from aigc_runtime.errors import BundleError, ConfigError
from aigc_runtime.providers import EngineProvider

__all__ = ["EngineInfo", "with_later_fields", "without_later_fields"]

_SINCE = {"build": 2, "provider": 3}
"""Field -> the format version that has it first; later ones have it too."""

_BUILD_SINCE = {"gpu": 4}
"""The same of the fields of `build`."""


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """Which back-end opens which file.

    Attributes:
        kind: of the back-end.
        file: that it opens.
        build: for an engine compiled for certain devices, which (format version 2; 4 if it names a GPU).
        provider: for a graph that something else than the CPU runs, what (format version 3).
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

    @property
    def format_version(self) -> int:
        """The oldest format version that can describe it."""
        if self.build is not None and self.build.gpu is not None:
            return 4
        if self.provider is not None:
            return 3
        return 1 if self.build is None else 2


def with_later_fields(engine: Mapping[str, Any], version: int) -> dict[str, Any]:
    """The JSON of an engine with the fields of later versions, null.

    Args:
        engine: as it was read.
        version: of the format it was read in.

    Raises:
        BundleError: it has a field that its version has not.
    """
    full = _with_later(engine, _SINCE, version, "$.engine")
    if isinstance(build := full.get("build"), dict):
        full["build"] = _with_later(build, _BUILD_SINCE, version, "$.engine.build")
    return full


def without_later_fields(engine: Mapping[str, Any], version: int) -> dict[str, Any]:
    """The JSON of an engine as a version of the format writes it."""
    kept = _without_later(engine, _SINCE, version)
    if isinstance(build := kept.get("build"), dict):
        kept["build"] = _without_later(build, _BUILD_SINCE, version)
    return kept


def _with_later(value: Mapping[str, Any], since: Mapping[str, int], version: int, where: str) -> dict[str, Any]:
    later = {name: None for name, first in since.items() if version < first}
    for name in later:
        if name in value:
            raise BundleError(f"{where}.{name} is not a known field", hint=f"format version {version} has none")
    return {**value, **later}


def _without_later(value: Mapping[str, Any], since: Mapping[str, int], version: int) -> dict[str, Any]:
    return {name: inner for name, inner in value.items() if since.get(name, 1) <= version}
