"""How a manifest says which pipeline drives its engines: `{kind, engines, ...}`, the rest being the kind's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aigc_runtime.errors import BundleError, ConfigError, UnknownNameError
from aigc_runtime.io.jsonable import convert, from_json, to_json
from aigc_runtime.pipelines import get_kind, kind_of
from aigc_runtime.pipelines.kind import SINGLE_ENGINE

__all__ = ["PipelineInfo", "pipeline_from_json", "pipeline_to_json"]


@dataclass(frozen=True, kw_only=True)
class PipelineInfo:
    """Which kind of pipeline drives which engines, and how.

    Attributes:
        kind: a name in the table of kinds, or of one that an installed package brings.
        engines: role of an engine -> its name.
        settings: of that kind.

    Raises:
        UnknownNameError: no such kind.
        ConfigError: settings of another kind.
    """

    kind: str
    engines: dict[str, str]
    settings: Any

    def __post_init__(self) -> None:
        kind = get_kind(self.kind)
        if type(self.settings) is not kind.settings:
            raise ConfigError(f"pipeline of kind {self.kind!r} with {type(self.settings).__name__}")

    @staticmethod
    def of(settings: Any, engines: Mapping[str, str] = SINGLE_ENGINE) -> PipelineInfo:
        """The pipeline whose settings these are."""
        return PipelineInfo(kind=kind_of(settings).name, engines=dict(engines), settings=settings)


def pipeline_from_json(value: Any, *, where: str = "$.pipeline") -> PipelineInfo:
    """Read the pipeline of a manifest: its kind says what else must be there.

    Raises:
        BundleError: names the field, what was found and what is expected.
    """
    if not isinstance(value, dict):
        raise BundleError(f"{where} is {value!r:.200}, expected an object")
    name = value.get("kind")
    try:
        kind = get_kind(name if isinstance(name, str) else str(name))
    except UnknownNameError as err:
        raise BundleError(f"{where}.kind is {name!r:.200}", hint=err.hint) from err
    if "engines" not in value:
        raise BundleError(f"{where}.engines is missing", hint="role -> name of an engine")
    engines = convert(dict[str, str], value["engines"], f"{where}.engines", BundleError)
    rest = {field: inner for field, inner in value.items() if field not in ("kind", "engines")}
    settings: Any = from_json(kind.settings, rest, where=where)
    return PipelineInfo(kind=kind.name, engines=engines, settings=settings)


def pipeline_to_json(pipeline: PipelineInfo) -> dict[str, Any]:
    """The pipeline as plain JSON."""
    return {"kind": pipeline.kind, "engines": dict(pipeline.engines), **to_json(pipeline.settings)}
