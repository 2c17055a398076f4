"""What the values of a manifest mean: limits, and fields that contradict each other.

Types are checked where the JSON is read (`settings`), whether the pipeline can drive the engine and replay the
reference's request in `runnable`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from aigc_runtime.errors import ConfigError
from aigc_runtime.tensors import DimSpec, StateSpec, TensorSpec

if TYPE_CHECKING:
    from aigc_runtime.manifest import Manifest, Reference

__all__ = [
    "MAX_COUNT",
    "MAX_GUIDANCE_SCALE",
    "MAX_STATE_BYTES",
    "MAX_STEPS",
    "PRECISIONS",
    "check_interface",
    "check_meaning",
    "check_range",
    "state_bytes",
]

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8", "int8-weight", "int4", "mixed")
"""Of engines: `mixed` is what a search makes."""

MAX_STATE_BYTES = 2**35
"""Carried state of one row at its longest: 32 GiB."""

MAX_COUNT = 2**24
"""Tokens of a vocabulary or a context, classes."""

MAX_STEPS = 10_000
"""Sampling steps."""

MAX_GUIDANCE_SCALE = 1e4
"""Far beyond any use; a larger one is a mistake that would only overflow."""

MAX_TEXT = 255
MAX_FREE_TEXT = 4096
_QUALITY = 1e30


def check_range(name: str, value: float | None, low: float, high: float) -> None:
    """Refuse a number outside its range; None passes.

    Raises:
        ConfigError: names the field, its value and the range.
    """
    if value is not None and not low <= value <= high:
        raise ConfigError(
            f"{name} is {value:,}", hint=f"must be from {low:,} to {high:,}" if low <= high else "must be null here"
        )


def check_meaning(manifest: Manifest) -> None:
    """Refuse values that mean nothing, and fields that contradict each other.

    Raises:
        ConfigError: names the field, what it holds and what is allowed.
    """
    _check_texts(manifest)
    check_interface(manifest.dims, manifest.inputs, manifest.outputs, manifest.state)
    _check_reference(manifest.reference, manifest.inputs, manifest.outputs)
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
        ("engine.kind", manifest.engine.kind),
        *((f"reference.cases[{i}].name", case.name) for i, case in enumerate(manifest.reference.cases)),
        *((f"quality[{i}].metric", result.metric) for i, result in enumerate(manifest.quality)),
        *((f"quality[{i}].data", result.data) for i, result in enumerate(manifest.quality) if result.data),
        *((f"dims[{i}].name", dim.name) for i, dim in enumerate(manifest.dims)),
        *((f"inputs[{i}].name", tensor.name) for i, tensor in enumerate(manifest.inputs)),
        *((f"outputs[{i}].name", tensor.name) for i, tensor in enumerate(manifest.outputs)),
        *((f"state[{i}].input", spec.input) for i, spec in enumerate(manifest.state)),
        *((f"state[{i}].output", spec.output) for i, spec in enumerate(manifest.state)),
        *(("a name in provenance", name) for name in manifest.provenance),
    ]
    for where, text in named:
        _check_text(where, text, MAX_TEXT)
    for name, text in manifest.provenance.items():
        if text:
            _check_text(f"provenance.{name}", text, MAX_FREE_TEXT)


def _check_text(where: str, text: str, most: int) -> None:
    if not 0 < len(text) <= most or not text.isprintable():
        shown = f"{text[:MAX_TEXT]!a}, {len(text):,} characters" if len(text) > MAX_TEXT else f"{text!a}"
        raise ConfigError(f"{where} is {shown}", hint=f"must be 1 to {most:,} printable characters")


def check_interface(
    dims: Sequence[DimSpec], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], state: Sequence[StateSpec]
) -> None:
    """Refuse an interface that no session could run: names twice, sizes that nothing says, states that disagree.

    Raises:
        ConfigError: so it is.
    """
    into = [t.name for t in inputs] + [s.input for s in state]
    into += sorted({s.length_input for s in state if s.length_input})
    out = [t.name for t in outputs] + [s.output for s in state]
    for what, names in (("inputs", into), ("outputs", out), ("dims", [d.name for d in dims])):
        if len(set(names)) < len(names):
            raise ConfigError(f"{what} holds a name twice: {sorted(n for n in set(names) if names.count(n) > 1)}")
    if not inputs or not outputs or any(not t.shape for t in inputs):
        raise ConfigError("an engine needs inputs, each with a batch dimension, and outputs")
    named = [size for t in inputs for size in t.shape if isinstance(size, str)]
    for t in outputs:
        for size in t.shape:
            if isinstance(size, str) and size not in named:
                raise ConfigError(f"output {t.name!r} has dimension {size!r}, which no input has")
    if unknown := sorted({part for size in named for part in size.split("+")} - {d.name for d in dims}):
        raise ConfigError(f"dims lacks {unknown}")
    if len({(s.kind, s.length_input, s.step_dim, s.shape[s.axis]) for s in state}) > 1:
        raise ConfigError("state holds entries of different kind, length or step dimension")
    if any(s.step_dim not in named for s in state):
        raise ConfigError(f"state steps along {state[0].step_dim!r}, which no input has")
    for t in (*inputs, *outputs):
        _check_bounds(t)
    if state and (size := state_bytes(dims, state, rows=1)) > MAX_STATE_BYTES:
        raise ConfigError(
            f"the carried state of one row has {size:,} bytes at its longest",
            hint=f"at most {MAX_STATE_BYTES:,} are allowed",
        )


def _check_bounds(tensor: TensorSpec) -> None:
    if tensor.low is None and tensor.high is None:
        return
    kind = np.dtype(tensor.dtype)
    if kind.kind not in "iu":
        raise ConfigError(f"tensor {tensor.name!r} is {tensor.dtype} and has bounds", hint="only integers have them")
    least, most = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    low, high = least if tensor.low is None else tensor.low, most + 1 if tensor.high is None else tensor.high
    if not least <= low < high <= most + 1:
        raise ConfigError(
            f"tensor {tensor.name!r} has low {tensor.low}, high {tensor.high}",
            hint=f"need low < high, within {tensor.dtype}",
        )


def state_bytes(dims: Iterable[DimSpec], state: Iterable[StateSpec], *, rows: int) -> int:
    """Bytes of the carried state of `rows` rows at its longest; a dimension without an end counts as nothing."""
    longest = {dim.name: dim.max or 0 for dim in dims}
    return rows * sum(
        np.dtype(spec.dtype).itemsize
        * math.prod(size if isinstance(size, int) else longest.get(size, 0) for size in spec.shape[1:])
        for spec in state
    )


def _check_reference(reference: Reference, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    if not reference.cases:
        raise ConfigError("reference has no case with outputs, so nothing could be verified")
    fed, given = {t.name for t in inputs}, {t.name for t in outputs}
    names = [case.name for case in reference.cases]
    if len(set(names)) < len(names):
        raise ConfigError(f"reference.cases holds a name twice: {sorted(names)}")
    for case in reference.cases:
        if not case.steps or not all(step.outputs for step in case.steps):
            raise ConfigError(f"reference case {case.name!r} has no steps with outputs, so nothing could be verified")
        if any(step.inputs.keys() != fed or not step.outputs.keys() <= given for step in case.steps):
            raise ConfigError(
                f"a step of reference case {case.name!r} has other inputs or outputs than the engine",
                hint=f"inputs {sorted(fed)}, outputs among {sorted(given)}",
            )
