"""The table of the kinds of pipelines that this runtime has, and how others are found."""

from __future__ import annotations

from typing import Any

from aigc_runtime.core.plugins import look_up, plugin_names
from aigc_runtime.core.program import OpenProgram, as_program
from aigc_runtime.core.session import Session
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.diffusion_kind import DIFFUSION
from aigc_runtime.pipelines.gan_kind import GAN
from aigc_runtime.pipelines.kind import SINGLE_ENGINE, AnyPipeline, PipelineKind, Roles
from aigc_runtime.pipelines.tensors_kind import TENSORS
from aigc_runtime.pipelines.text_kind import TEXT
from aigc_runtime.pipelines.upscale_kind import UPSCALE

__all__ = ["KINDS", "get_kind", "kind_of", "make_pipeline"]

KINDS: dict[str, PipelineKind] = {kind.name: kind for kind in (TEXT, DIFFUSION, GAN, TENSORS, UPSCALE)}


ENTRY_POINTS = "aigc_runtime.pipelines"
"""The group under which an installed package registers a `PipelineKind`, by its name."""

_installed: dict[str, PipelineKind] = {}
"""Kinds of other packages that were loaded."""


def get_kind(name: str) -> PipelineKind:
    """The kind of that name: of the table, or else of an installed package.

    Raises:
        UnknownNameError: there is none; lists the names.
        ConfigError: a package registers it, and it cannot be loaded or has another name.
    """
    known = {**_installed, **KINDS}
    if name in known:
        return known[name]
    kind = look_up(KINDS, name, what="kind of pipeline", group=ENTRY_POINTS, of=PipelineKind)
    if kind.name != name:
        raise ConfigError(
            f"an installed package registers the kind of pipeline {name!r}, which calls itself {kind.name!r}",
            hint="mend the package or remove it",
        )
    _installed[name] = kind
    return kind


def kind_of(settings: Any) -> PipelineKind:
    """The kind whose settings these are.

    Raises:
        ConfigError: they are those of no kind, or an installed package registers one that cannot be loaded.
    """
    for kind in (*KINDS.values(), *_installed.values()):
        if type(settings) is kind.settings:
            return kind
    names = plugin_names(KINDS, group=ENTRY_POINTS)
    for name in names:
        if type(settings) is get_kind(name).settings:
            return get_kind(name)
    raise ConfigError(
        f"no kind of pipeline has settings of type {type(settings).__name__}", hint=f"known: {', '.join(names)}"
    )


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
