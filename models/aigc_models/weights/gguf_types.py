"""The types of numbers in GGUF files, and how their blocks become float32 numbers.

Blocks are read as the format defines them (ggml-org/llama.cpp, ggml-common.h); the arithmetic is that of the package
`gguf`, which the format's makers publish.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from aigc_runtime.errors import CheckpointError

__all__ = ["GGUF_INSTALL", "GgufMissingError", "GgufType", "dequantize", "find_type", "import_gguf"]

GGUF_INSTALL = "pip install 'aigc-export[gguf]'"


class GgufMissingError(CheckpointError):
    """The package that computes quantized numbers is not installed; the hint is the exact install line."""


@dataclass(frozen=True, kw_only=True)
class GgufType:
    """A type of numbers.

    Attributes:
        name: as the format calls it.
        block: numbers that are stored together.
        size: bytes of a block.
        dtype: of numbers that are stored as they are; None where blocks must be computed.
    """

    name: str
    block: int
    size: int
    dtype: torch.dtype | None = None


# fmt: off
_TYPES = MappingProxyType({
    0: GgufType(name="F32", block=1, size=4, dtype=torch.float32),
    1: GgufType(name="F16", block=1, size=2, dtype=torch.float16),
    30: GgufType(name="BF16", block=1, size=2, dtype=torch.bfloat16),
    2: GgufType(name="Q4_0", block=32, size=18),
    3: GgufType(name="Q4_1", block=32, size=20),
    6: GgufType(name="Q5_0", block=32, size=22),
    7: GgufType(name="Q5_1", block=32, size=24),
    8: GgufType(name="Q8_0", block=32, size=34),
    10: GgufType(name="Q2_K", block=256, size=84),
    11: GgufType(name="Q3_K", block=256, size=110),
    12: GgufType(name="Q4_K", block=256, size=144),
    13: GgufType(name="Q5_K", block=256, size=176),
    14: GgufType(name="Q6_K", block=256, size=210),
})
"""Number in the file -> type that is read."""
_OTHERS = MappingProxyType({
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4",
})
"""Number in the file -> name of a type that is not read."""
# fmt: on


def find_type(number: int, *, tensor: str, what: str) -> GgufType:
    """Find a type by its number in the file.

    Raises:
        CheckpointError: one that is not read; names it and those that are.
    """
    if number in _TYPES:
        return _TYPES[number]
    name = _OTHERS.get(number)
    raise CheckpointError(
        f"{what!r}: tensor {tensor!r} is of type {name or f'number {number}'}, which is not read",
        hint=f"take a file of another type: {', '.join(known.name for known in _TYPES.values())}",
    )


def import_gguf() -> Any:
    """The package `gguf`.

    Raises:
        GgufMissingError: it is not installed; the hint is the install line.
    """
    try:
        import gguf
    except ImportError as err:
        raise GgufMissingError(
            "quantized GGUF files need the package gguf, which is not installed", hint=GGUF_INSTALL
        ) from err
    return gguf


def dequantize(data: npt.NDArray[np.uint8], kind: GgufType) -> npt.NDArray[np.float32]:
    """Compute the numbers of whole blocks.

    Args:
        data: [blocks * kind.size] bytes.
        kind: a type without a dtype.

    Returns:
        [blocks * kind.block] float32.
    """
    gguf = import_gguf()
    numbers = gguf.quants.dequantize(data.reshape(1, -1), gguf.GGMLQuantizationType[kind.name])
    return np.ascontiguousarray(numbers, dtype=np.float32).reshape(-1)
