"""What the values of a manifest mean: limits, and fields that contradict each other.

Types are checked where the JSON is read (`settings`), whether the pipeline can drive the engine and replay the
reference's request in `runnable`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from aigc_runtime.core.interface import Interface
from aigc_runtime.errors import ConfigError

if TYPE_CHECKING:
    from aigc_runtime.bundle.manifest import Manifest, Reference

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
MAX_FREE_TEXT = 4096
_QUALITY = 1e30


def check_meaning(manifest: Manifest) -> None:
    """Refuse values that mean nothing, and fields that contradict each other.

    Raises:
        ConfigError: names the field, what it holds and what is allowed.
    """
    _check_texts(manifest)
    _check_state_size(manifest.interface)
    _check_reference(manifest.reference, manifest.interface)
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


def _check_state_size(interface: Interface) -> None:
    size = state_bytes(interface, rows=1)
    if size > MAX_STATE_BYTES:
        raise ConfigError(
            f"the carried state of one row has {size:,} bytes at its longest",
            hint=f"at most {MAX_STATE_BYTES:,} are allowed",
        )


def state_bytes(interface: Interface, *, rows: int) -> int:
    """Bytes of the carried state of `rows` rows at its longest; a dimension without an end counts as nothing."""
    longest = {dim.name: dim.max or 0 for dim in interface.dims}
    return rows * sum(
        np.dtype(spec.dtype).itemsize
        * math.prod(size if isinstance(size, int) else longest.get(size, 0) for size in spec.shape[1:])
        for spec in interface.state
    )


def _check_reference(reference: Reference, interface: Interface) -> None:
    if not reference.cases:
        raise ConfigError("reference has no case with outputs, so nothing could be verified")
    fed, given = {t.name for t in interface.inputs}, {t.name for t in interface.outputs}
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
