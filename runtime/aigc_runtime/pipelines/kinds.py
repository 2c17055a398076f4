"""The table of the kinds of pipelines that this runtime has, and how others are found."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import chain
from typing import Any

from aigc_runtime.core.plugins import look_up, plugin_names
from aigc_runtime.core.program import OpenProgram, as_program
from aigc_runtime.core.session import Session
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.kind import SINGLE_ENGINE, AnyPipeline, PipelineKind, Roles

__all__ = ["KINDS", "get_kind", "kind_of", "make_pipeline"]


class _Kinds(Mapping[str, PipelineKind]):
    """This runtime's own kinds by name, each imported when it is first asked for: a device runs one of them."""

    _names = ("text", "diffusion", "gan", "tensors", "upscale", "text_to_image")

    def __getitem__(self, name: str) -> PipelineKind:
        if name not in self._names:
            raise KeyError(name)
        kind: PipelineKind = getattr(import_module(_module(name)), name.upper())
        return kind

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _module(name: str) -> str:
    return f"aigc_runtime.pipelines.{name}_kind"


KINDS: Mapping[str, PipelineKind] = _Kinds()

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
    if name in _installed:
        return _installed[name]
    kind = look_up(KINDS, name, what="kind of pipeline", group=ENTRY_POINTS, of=PipelineKind)
    if name in KINDS:
        return kind
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
    # Who made the settings has imported their kind, and importing the others takes a tenth of a second.
    known = sorted(KINDS, key=lambda name: _module(name) not in sys.modules)
    for kind in chain((KINDS[name] for name in known), _installed.values()):
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
