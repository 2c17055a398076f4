"""The table of the kinds of pipelines that this runtime has, and how others are found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aigc_runtime.core.program import OpenProgram, as_program
from aigc_runtime.core.session import Session
from aigc_runtime.errors import ConfigError, UnknownNameError
from aigc_runtime.pipelines.diffusion_kind import DIFFUSION
from aigc_runtime.pipelines.gan_kind import GAN
from aigc_runtime.pipelines.kind import SINGLE_ENGINE, AnyPipeline, PipelineKind, Roles
from aigc_runtime.pipelines.tensors_kind import TENSORS
from aigc_runtime.pipelines.text_kind import TEXT

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["KINDS", "get_kind", "kind_of", "make_pipeline"]

KINDS: dict[str, PipelineKind] = {"text": TEXT, "diffusion": DIFFUSION, "gan": GAN, "tensors": TENSORS}


GROUP = "aigc_runtime.pipelines"
"""The entry points of packages that bring a kind: the kind's name -> the `PipelineKind`."""

_installed: dict[str, PipelineKind] = {}
"""Kinds of other packages that were loaded."""


def get_kind(name: str) -> PipelineKind:
    """The kind of that name: of the table, or else of an installed package.

    Raises:
        UnknownNameError: there is none; lists the names.
        ConfigError: a package announces a kind of that name and brings none.
    """
    if name in KINDS:
        return KINDS[name]
    if name not in _installed:
        found = _entry_points()
        if name not in found:
            raise UnknownNameError("kind of pipeline", name, [*KINDS, *found])
        _installed[name] = _load(found[name])
    return _installed[name]


def kind_of(settings: Any) -> PipelineKind:
    """The kind whose settings these are.

    Raises:
        ConfigError: they are those of no kind.
    """
    for kind in (*KINDS.values(), *_installed.values()):
        if type(settings) is kind.settings:
            return kind
    names = _entry_points()
    for name in names:
        if type(settings) is get_kind(name).settings:
            return get_kind(name)
    raise ConfigError(
        f"no kind of pipeline has settings of type {type(settings).__name__}",
        hint=f"known: {', '.join((*KINDS, *names))}",
    )


def _entry_points() -> dict[str, EntryPoint]:
    """What installed packages announce; names of the table stay the table's."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP) if point.name not in KINDS}


def _load(point: EntryPoint) -> PipelineKind:
    try:
        kind = point.load()
    except Exception as err:  # whatever a package raises while it is imported
        raise ConfigError(
            f"the kind of pipeline {point.name!r} cannot be loaded: {type(err).__name__}: {err}",
            hint=f"the package that announces it is broken: {point.value}",
        ) from err
    if not isinstance(kind, PipelineKind) or kind.name != point.name:
        raise ConfigError(
            f"{point.value} is no PipelineKind called {point.name!r}", hint="the package that announces it is broken"
        )
    return kind


def make_pipeline(program: OpenProgram | Session, settings: Any, roles: Roles = SINGLE_ENGINE) -> AnyPipeline:
    """The pipeline that belongs to the settings.

    Args:
        program: opened engines; a session is a program of one engine, which is called `model`.
        settings: of a pipeline.
        roles: which engine has which part in it.

    Raises:
        ConfigError: the engines are not such as the pipeline drives.
    """
    pipeline: AnyPipeline = kind_of(settings).open(as_program(program), roles, settings)
    return pipeline
