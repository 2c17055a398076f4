"""What an export of a language model will take: the law that docs/scale.md measured, on the processor that it names."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from aigc_export.line.disk_space import engine_bytes
from aigc_runtime.system.host_memory import available_memory

__all__ = ["MEASURED_ON", "Estimate", "Machine", "estimate", "this_machine"]

MEASURED_ON = "two cores of an AMD EPYC"
BASE_BYTES = 500_000_000
"""Of PyTorch and what else is loaded."""
LOGIT_TOKENS = 5_000
"""Tokens whose logits are in memory at once, about, in all copies: as SmolLM2 of 49,152 tokens took (docs/scale.md)."""
TOKEN_SECONDS = 2.2e-5
"""For each million of parameters and each token of calibration: SmolLM2 in 8 bits and by GPTQ."""


@dataclass(frozen=True, kw_only=True)
class _Law:
    """Both are linear in the size: layers are nodes of a graph, weights are numbers.

    Attributes:
        bytes_per_byte: of memory, for each byte of weights in float32.
        layer_seconds: for each layer.
        million_seconds: for each million of parameters.
        tokens: of samples that run through the model where nobody asks for another number.
        way: of the measurement.
    """

    bytes_per_byte: float
    layer_seconds: float
    million_seconds: float
    tokens: int = 0
    way: str = ""


START_SECONDS = 3.0
_LAWS = {
    "fp32": _Law(bytes_per_byte=2.1, layer_seconds=1.2, million_seconds=0.16),
    "int8-weight": _Law(
        bytes_per_byte=2.9,
        layer_seconds=1.2,
        million_seconds=0.35,
        tokens=8 * 512,
        way="as int4, with 8 windows of 512 tokens",
    ),
    "int4": _Law(
        bytes_per_byte=2.9,
        layer_seconds=1.2,
        million_seconds=0.35,
        tokens=128 * 512,
        way="GPTQ, 128 windows of 512 tokens",
    ),
}
"""Precision -> law, of models of 17 M to 1.1 B parameters; `int8-weight` is taken to be as int4 rounded to nearest, and
others were not measured."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What this machine has.

    Attributes:
        memory_bytes: that is free; None where the system does not say.
        disk_bytes: that are free where one is.
        temporary_bytes: the same among the temporary files; None where there is no folder for them.
    """

    memory_bytes: int | None
    disk_bytes: int
    temporary_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What an export will take, about.

    Attributes:
        memory_bytes: at the peak.
        seconds: on the processor that it was measured on; None for a precision that was not measured.
        disk_bytes: among the temporary files: the float graph's weights.
        way: how it was measured.
        fits_memory: whether this machine has that much; None where it does not say.
        fits_disk: whether its disks have room for the float graph and the engine.
    """

    memory_bytes: int
    seconds: float | None
    disk_bytes: int
    way: str
    fits_memory: bool | None
    fits_disk: bool


def this_machine() -> Machine:
    """Ask what is free here."""
    try:
        temporary = shutil.disk_usage(tempfile.gettempdir()).free
    except OSError:
        temporary = None
    return Machine(
        memory_bytes=available_memory(), disk_bytes=shutil.disk_usage(Path.cwd()).free, temporary_bytes=temporary
    )


def estimate(
    precision: str,
    *,
    parameters: int,
    layers: int,
    vocab_size: int,
    machine: Machine,
    calibration_tokens: int | None = None,
) -> Estimate:
    """Estimate what an export takes, and whether this machine has it.

    Args:
        precision: that the engine runs; see `Workload.run_as`.
        parameters: of the model.
        layers: of the model.
        vocab_size: of the model.
        machine: that it runs on.
        calibration_tokens: that run through the model; None takes as many as the precision's samples have by default.
    """
    law = _LAWS.get(precision)
    factor = law.bytes_per_byte if law is not None else max(one.bytes_per_byte for one in _LAWS.values())
    weights = 4 * parameters
    memory = round(BASE_BYTES + factor * weights + 4 * LOGIT_TOKENS * vocab_size)
    seconds = None
    if law is not None:
        tokens = law.tokens if calibration_tokens is None else calibration_tokens
        seconds = START_SECONDS + law.layer_seconds * layers
        seconds += (law.million_seconds + TOKEN_SECONDS * tokens) * parameters / 1e6
    engine = engine_bytes(weights, precision)
    return Estimate(
        memory_bytes=memory,
        seconds=seconds,
        disk_bytes=max(weights, engine),
        way="" if law is None else law.way,
        fits_memory=None if machine.memory_bytes is None else memory <= machine.memory_bytes,
        fits_disk=machine.temporary_bytes is not None
        and machine.temporary_bytes >= max(weights, engine)
        and machine.disk_bytes >= engine,
    )


def processors() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
