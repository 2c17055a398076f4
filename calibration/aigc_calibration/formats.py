"""The forms in which engines take quantized graphs, as values: which of them an engine takes is for its target to say.

Weights have the same codes in every form. So have activations whose plan holds a symmetric range alone: the signed
code c is the unsigned code c + 128. Where the plan also holds the two ends of the range, the 256 unsigned codes lie
between them.

1. Signed: symmetric s8 (or fp8) on the inputs of a site, float bias, nothing on its result.
2. Unsigned: u8 with a zero point, for kernels that multiply u8 by s8; int32 bias; Q/DQ also on the result of Conv, and
   of MatMul in front of Relu, without which they stay float, and in front of operators that copy numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["SIGNED_FORMAT", "UNSIGNED_FORMAT", "QdqFormat"]


@dataclass(frozen=True, kw_only=True)
class QdqFormat:
    """The form in which an engine takes a quantized graph.

    Attributes:
        unsigned: activations as u8 with a zero point (128 for a symmetric range) in place of s8.
        phases: whether an 8-bit ConvTranspose is a Conv of the phases of its result, where it is one of the cases of
            `phases`: the engine has 8-bit kernels for that alone.
        moves_codes: whether operators that only copy numbers copy codes, with Q and DQ on both sides of them, and
            nearest-neighbor upsampling is a Gather per axis.
        integer_bias: the bias of an int8 site as int32.
        quantized_results: operators whose result is quantized too, where the plan has a range for it.
        nbits: whether it has MatMulNBits for weights in blocks, and GatherBlockQuantized for tables.
        fp8_arithmetic: whether it multiplies fp8 numbers; else they are stored and rounded so, and computed with in
            float.
        half_arithmetic: whether it multiplies 16-bit numbers; else they are stored and rounded so, and computed with
            in float.
        float_ops: (operator, precision) that the engine has no kernel for, with the reason; `phases` come first.
    """

    unsigned: bool
    phases: bool
    moves_codes: bool
    integer_bias: bool
    quantized_results: frozenset[str]
    nbits: bool
    half_arithmetic: bool
    fp8_arithmetic: bool
    float_ops: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def run_as(self, precision: str, *, in_blocks: bool) -> str:
        """Return the precision that an engine runs under a name.

        Args:
            precision: as it is asked for.
            in_blocks: whether the model's `int8` is weights in blocks where there are kernels for them.
        """
        return "int8-weight" if precision == "int8" and in_blocks and self.nbits else precision


SIGNED_FORMAT = QdqFormat(
    unsigned=False,
    phases=False,
    moves_codes=False,
    integer_bias=False,
    quantized_results=frozenset(),
    nbits=False,
    half_arithmetic=True,
    fp8_arithmetic=True,
)
"""Of compilers that read Q and DQ around an operator as its type, and have kernels for all types."""

UNSIGNED_FORMAT = QdqFormat(
    unsigned=True,
    phases=True,
    moves_codes=True,
    integer_bias=True,
    quantized_results=frozenset({"Conv", "ConvTranspose", "MatMul"}),
    nbits=True,
    half_arithmetic=False,
    fp8_arithmetic=False,
    float_ops=MappingProxyType({("ConvTranspose", "int8"): "ONNX Runtime has no 8-bit ConvTranspose on a CPU"}),
)
"""Of ONNX Runtime's kernels for processors, which multiply u8 by s8 numbers, and else floats."""
