"""What the values of a manifest mean: limits, and fields that contradict each other.

Types are checked where the JSON is read (`settings`), whether the pipeline can drive the engine and replay the
reference's request in `runnable`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from aigc_runtime.bundle.engine_info import MAIN_ENGINE
from aigc_runtime.core.interface import Interface
from aigc_runtime.errors import ConfigError

if TYPE_CHECKING:
    from aigc_runtime.bundle.engine_info import EngineInfo
    from aigc_runtime.bundle.manifest import Manifest, Reference, ReferenceStep
    from aigc_runtime.core.tensors import StateSpec

__all__ = [
    "MAX_STATE_BYTES",
    "PRECISIONS",
    "check_meaning",
    "state_bytes",
]

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8", "int8-weight", "int4", "mixed")
"""Of engines: `mixed` is what a search makes."""

MAX_STATE_BYTES = 2**35
"""Carried state of one row at its longest: 32 GiB."""

MAX_TEXT = 255
_ENGINE_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
MAX_FREE_TEXT = 4096
_QUALITY = 1e30


def check_meaning(manifest: Manifest) -> None:
    """Refuse values that mean nothing, and fields that contradict each other.

    Raises:
        ConfigError: names the field, what it holds and what is allowed.
    """
    _check_texts(manifest)
    _check_engines(manifest)
    for interface in manifest.interfaces.values():
        _check_state_size(interface)
    _check_reference(manifest.reference, manifest.interfaces)
    metrics = [(result.metric, result.data) for result in manifest.quality]
    if len(set(metrics)) < len(metrics):
        raise ConfigError(f"quality holds a metric twice: {sorted(metric for metric, _ in metrics)}")
    for result in manifest.quality:
        if not max(abs(result.reference), abs(result.bundle)) <= _QUALITY:
            raise ConfigError(
                f"quality {result.metric!r} is {result.bundle:g}, PyTorch's {result.reference:g}",
                hint=f"must be numbers of at most {_QUALITY:g}",
            )


def _check_texts(manifest: Manifest) -> None:
    named: list[tuple[str, str]] = [
        ("name", manifest.name),
        ("target", manifest.target),
        ("precision", manifest.precision),
        *((f"reference.cases[{i}].name", case.name) for i, case in enumerate(manifest.reference.cases)),
        *((f"quality[{i}].metric", result.metric) for i, result in enumerate(manifest.quality)),
        *((f"quality[{i}].data", result.data) for i, result in enumerate(manifest.quality) if result.data),
        *(pair for name, engine in manifest.engines.items() for pair in _engine_texts(name, engine)),
        *(("a name in state", name) for name in manifest.state),
        *(pair for name, specs in manifest.state.items() for pair in _state_texts(name, specs)),
        *(("a name in provenance", name) for name in manifest.provenance),
    ]
    for where, text in named:
        _check_text(where, text, MAX_TEXT)
    for name, text in manifest.provenance.items():
        if text:
            _check_text(f"provenance.{name}", text, MAX_FREE_TEXT)


def _engine_texts(name: str, engine: EngineInfo) -> Iterator[tuple[str, str]]:
    where = f"engines.{name}"
    yield f"{where}.kind", engine.kind
    for field in ("inputs", "outputs", "dims"):
        for i, one in enumerate(getattr(engine.interface, field)):
            yield f"{where}.{field}[{i}].name", one.name


def _state_texts(name: str, specs: tuple[StateSpec, ...]) -> Iterator[tuple[str, str]]:
    for i, spec in enumerate(specs):
        yield f"state.{name}[{i}].input", spec.input
        yield f"state.{name}[{i}].output", spec.output


def _check_engines(manifest: Manifest) -> None:
    """Every engine and state has a plain name and is used; the pipeline's engine is there."""
    for what, names in (("engines", manifest.engines), ("state", manifest.state)):
        for name in names:
            if not _ENGINE_NAME.fullmatch(name):
                raise ConfigError(
                    f"{what} holds the name {name[:MAX_TEXT]!r}", hint="lower-case letters, digits and _, at most 64"
                )
    if not manifest.engines:
        raise ConfigError("engines is empty", hint="a bundle holds one engine at least")
    if len(manifest.engines) == 1 and MAIN_ENGINE not in manifest.engines:
        raise ConfigError(f"the only engine is called {next(iter(manifest.engines))!r}", hint=f"must be {MAIN_ENGINE}")
    for role, engine in manifest.pipeline.engines.items():
        if engine not in manifest.engines:
            raise ConfigError(
                f"engines has no {engine!r}, which the pipeline drives as {role!r}",
                hint=f"it has: {', '.join(manifest.engines)}",
            )
    for state in manifest.state:
        _check_sharing(state, {n: e for n, e in manifest.engines.items() if e.interface.state == state})
    read = {engine.interface.state for engine in manifest.engines.values()}
    if unread := sorted(manifest.state.keys() - read):
        raise ConfigError(
            f"state {unread[0]!r} is that of no engine", hint="the bundle is inconsistent: export it again"
        )
    if empty := sorted(name for name, specs in manifest.state.items() if not specs):
        raise ConfigError(f"state {empty[0]!r} has no tensors", hint="an engine without carried state has null there")
    for field, files in (("shared_files", manifest.shared_files), ("assets", manifest.assets)):
        if len(set(files)) < len(files):
            raise ConfigError(f"{field} names a file twice: {list(files)}")


def _check_sharing(state: str, engines: Mapping[str, EngineInfo]) -> None:
    """Engines that share a state are of one kind, and keep it in one place: some keep a state with its session."""
    if len(engines) < 2:
        return
    places = {(engine.kind, engine.backend.state_place(engine.build)) for engine in engines.values()}
    if len(places) > 1 or next(iter(places))[1] is None:
        kinds = ", ".join(f"{name} ({engine.kind})" for name, engine in engines.items())
        raise ConfigError(
            f"state {state!r} is shared by engines that cannot share one: {kinds}",
            hint="they must be of one kind, for one device, and of a kind that can hand its state on",
        )


def _check_text(where: str, text: str, most: int) -> None:
    if not 0 < len(text) <= most or not text.isprintable():
        shown = f"{text[:MAX_TEXT]!a}, {len(text):,} characters" if len(text) > MAX_TEXT else f"{text!a}"
        raise ConfigError(f"{where} is {shown}", hint=f"must be 1 to {most:,} printable characters")


def _check_state_size(interface: Interface) -> None:
    size = state_bytes(interface, rows=1)
    if size > MAX_STATE_BYTES:
        raise ConfigError(
            f"the carried state of one row has {size:,} bytes at its longest",
            hint=f"at most {MAX_STATE_BYTES:,} are allowed",
        )


def state_bytes(interface: Interface, *, rows: int) -> int:
    """Bytes of the carried state of `rows` rows at its longest; a dimension without an end counts as nothing."""
    return sum(
        np.dtype(spec.dtype).itemsize * math.prod(spec.longest_shape(rows, interface.dims_by_name))
        for spec in interface.state
    )


def _check_reference(reference: Reference, interfaces: Mapping[str, Interface]) -> None:
    if not reference.cases:
        raise ConfigError("reference has no case with outputs, so nothing could be verified")
    names = [case.name for case in reference.cases]
    if len(set(names)) < len(names):
        raise ConfigError(f"reference.cases holds a name twice: {sorted(names)}")
    for case in reference.cases:
        if not case.steps or not all(step.outputs for step in case.steps):
            raise ConfigError(f"reference case {case.name!r} has no steps with outputs, so nothing could be verified")
        for step in case.steps:
            _check_step(case.name, step, interfaces)
    unproven = interfaces.keys() - {step.engine for case in reference.cases for step in case.steps}
    if unproven:
        raise ConfigError(f"reference has no step of engine {min(unproven)!r}, so nothing of it could be verified")


def _check_step(case: str, step: ReferenceStep, interfaces: Mapping[str, Interface]) -> None:
    if step.engine not in interfaces:
        raise ConfigError(
            f"a step of reference case {case!r} is of engine {step.engine!r}", hint=f"known: {', '.join(interfaces)}"
        )
    interface = interfaces[step.engine]
    fed, given = {tensor.name for tensor in interface.inputs}, {tensor.name for tensor in interface.outputs}
    if step.inputs.keys() != fed or not step.outputs.keys() <= given:
        raise ConfigError(
            f"a step of reference case {case!r} has other inputs or outputs than the engine",
            hint=f"inputs {sorted(fed)}, outputs among {sorted(given)}",
        )
