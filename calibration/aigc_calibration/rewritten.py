"""Compare the graph that ONNX Runtime runs with the emitted one: same codes, nothing more in low precision.

Its optimizer replaces, joins and moves operators. Whatever it did, in the graph that it runs

1. every constant of 8 or 4 bits stands for numbers that the emitted graph holds, as does every integer bias;
2. every scale and zero point of an activation is a pair of the emitted graph;
3. every integer product has such a constant, or is a product of activations that the plan quantizes.

What breaks one of these is a site that the plan leaves float, or one that was given other codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.bodies import proto_graphs, proto_nodes
from aigc_calibration.plan import QuantizationPlan
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["silent_changes"]

_FACTORS: Mapping[str, tuple[tuple[int, int, int], ...]] = MappingProxyType(
    {
        "QuantizeLinear": ((0, 1, 2),),
        "DequantizeLinear": ((0, 1, 2),),
        "QLinearConv": ((0, 1, 2), (3, 4, 5)),
        "QLinearMatMul": ((0, 1, 2), (3, 4, 5)),
        "QGemm": ((0, 1, 2), (3, 4, 5)),
        "MatMulIntegerToFloat": ((0, 2, 4), (1, 3, 5)),
    }
)
"""Operator -> (numbers, scale, zero point) among its inputs, for each of its operands."""
_BLOCKS = MappingProxyType({"MatMulNBits": (1, 2), "GatherBlockQuantized": (0, 2)})
"""Operator on weights in blocks -> codes and scales among its inputs."""
_RESULTS = MappingProxyType({"QLinearConv": (6, 7), "QLinearMatMul": (6, 7), "QGemm": (7, 8)})
"""Operator -> (scale, zero point) of its result among its inputs."""
_PRODUCTS = frozenset({"QLinearMatMul", "QGemm", "MatMulIntegerToFloat"})
_BIASES = MappingProxyType({"QLinearConv": 8, "QGemm": 6})
_UNKNOWN = frozenset({"MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "DynamicQuantizeLinear", "QAttention"})
"""Integer operators that no emitted graph leads to."""


def silent_changes(
    emitted: onnx.ModelProto, optimized: onnx.ModelProto, plan: QuantizationPlan, *, folder: str = ""
) -> tuple[str, ...]:
    """List what the engine's graph holds and the emitted one does not, a sentence for each node.

    Args:
        emitted: the graph that ONNX Runtime was given.
        optimized: the graph that it runs.
        plan: that the graph was emitted from.
        folder: where constants lie that are in files.
    """
    meant, found = _Constants(emitted.graph, folder), _Constants(optimized.graph, folder)
    pairs = {pair for _, pair in meant.activations()}
    numbers = {key for _, key in meant.operands()}
    biases = {_key(meant.array(name)) for name in meant.biases}
    products = {op.node for op in plan.quantized() if op.weight is None}
    wrong: dict[str, str] = {}

    def site(name: str) -> str:
        """The site that a node was made from: the optimizer puts something behind its name."""
        return max((op.node for op in plan.ops if name.startswith(op.node)), key=len, default=name)

    for node in found.nodes:
        if node.op_type in _UNKNOWN:
            wrong[node.name] = f"{site(node.name)!r} became {node.op_type}"
        if node.op_type in _PRODUCTS and not {*node.input[:5]} & found.weights and node.name not in products:
            wrong[node.name] = f"{site(node.name)!r} multiplies activations in 8 bits"
        bias = _BIASES.get(node.op_type, len(node.input))
        if bias < len(node.input) and node.input[bias] and _key(found.array(node.input[bias])) not in biases:
            wrong[node.name] = f"the bias of {site(node.name)!r} has other codes"
    for name, key in found.operands():
        if key not in numbers:
            wrong[name] = f"{site(name)!r} has a constant in low precision that is not in the plan"
    for name, pair in found.activations():
        if pair not in pairs:
            wrong[name] = f"{site(name)!r} rounds to steps of {pair[0]:.4g} with zero at code {pair[1]}, unplanned"
    return tuple(dict.fromkeys(wrong.values()))


Key = tuple[int, ...]
"""Of many numbers, in any order."""
_CHUNK = 2**16
_STARTS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0x3C6EF372FE94F82A))
_ROUNDS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))


def _key(values: Array) -> Key:
    """The same for the same numbers in any order, since layouts differ between operators: sums of their hashes.

    Every number is hashed by SplitMix64's finalizer (Steele et al. 2014, "Fast splittable pseudorandom number
    generators", figure 17), twice from different starts. Sorting large weights would take a minute.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    if flat.dtype.itemsize == 1:
        return (1, *np.bincount(flat.view(np.uint8), minlength=256).tolist())
    flat = flat + np.zeros((), flat.dtype)  # there are two zeros
    bits = flat.view(f"u{flat.dtype.itemsize}")
    sums = [0, 0]
    for first in range(0, len(bits), _CHUNK):
        for index, start in enumerate(_STARTS):
            hashed = bits[first : first + _CHUNK].astype(np.uint64) + start
            for shift, factor in _ROUNDS:
                hashed ^= hashed >> shift
                hashed *= factor
            hashed ^= hashed >> np.uint64(31)
            sums[index] = (sums[index] + int(hashed.sum())) % 2**64
    return flat.dtype.itemsize, len(flat), *sums


def _sum(keys: Iterable[Key]) -> Key:
    """The key of all numbers, from those of pieces of them; of more than one byte a number."""
    sizes, counts, *sums = zip(*keys, strict=True)
    return (sizes[0], sum(counts), *(sum(one) % 2**64 for one in sums))


class _Constants:
    """The constants of a graph and of the bodies in it, and what its nodes read of them."""

    def __init__(self, graph: onnx.GraphProto, folder: str) -> None:
        from onnx import helper

        self.folder = folder
        self.nodes = list(proto_nodes(graph))
        self.tensors = {tensor.name: tensor for one in proto_graphs(graph) for tensor in one.initializer}
        types = {name: helper.tensor_dtype_to_np_dtype(tensor.data_type) for name, tensor in self.tensors.items()}
        self.weights = {n for n, tensor in self.tensors.items() if len(tensor.dims) > 1 and types[n].itemsize == 1}
        self.biases = {name for name, kind in types.items() if kind == np.int32}

    def array(self, name: str) -> Array:
        """The numbers of a constant, read when they are asked for: all at once they are the model once more."""
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self.tensors[name], base_dir=self.folder))

    def _holds(self, node: onnx.NodeProto, index: int) -> bool:
        return index < len(node.input) and node.input[index] in self.tensors

    def _read(self, node: onnx.NodeProto, index: int) -> Array | None:
        return self.array(node.input[index]) if self._holds(node, index) else None

    def operands(self) -> Iterator[tuple[str, Key]]:
        """(node, what the numbers stand for) of every quantized constant but biases."""
        for node in self.nodes:
            if node.op_type in _BLOCKS:
                codes, scales = (self._read(node, i) for i in _BLOCKS[node.op_type])
                if codes is not None and scales is not None:  # scales that are reshaped are a product's own
                    yield node.name, _key(codes) + _key(scales)
            for number, scale, zero in _FACTORS.get(node.op_type, ()):
                codes, scales, zeros = (self._read(node, i) for i in (number, scale, zero))
                if codes is not None and scales is not None and codes.dtype != np.int32:
                    yield node.name, _sum(_key(piece) for piece in _real(node, codes, scales, zeros))

    def activations(self) -> Iterator[tuple[str, tuple[float, int]]]:
        """(node, (scale, place of zero among the codes)) of every activation and result."""
        for node in self.nodes:
            operands = [(s, z) for n, s, z in _FACTORS.get(node.op_type, ()) if not self._holds(node, n)]
            for scale, zero in (*operands, *([_RESULTS[node.op_type]] if node.op_type in _RESULTS else [])):
                scales, zeros = self._read(node, scale), self._read(node, zero)
                if scales is not None and scales.size == 1:
                    yield node.name, (float(scales.item()), _place(zeros))


def _place(zero: Array | None) -> int:
    """Find which of the codes a zero point is: the same for s8 codes and for those moved to u8."""
    if zero is None or zero.dtype.kind not in "iu":
        return 0
    return int(zero.item()) - int(np.iinfo(zero.dtype).min)


def _real(node: onnx.NodeProto, codes: Array, scales: Array, zeros: Array | None) -> Iterator[Array]:
    """Dequantize codes, float64, a few rows at once: a whole vocabulary's would take several times its memory.

    Scales of one axis or of blocks along one are only multiplied where they fit.
    """
    from onnx import helper

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
    if node.op_type == "QLinearConv":
        axis = 0
    elif node.op_type == "QGemm":
        axis = 0 if attributes.get("transB", 0) else 1
    elif node.op_type in {"QLinearMatMul", "MatMulIntegerToFloat"}:
        axis = codes.ndim - 1
    codes = np.atleast_1d(codes)
    axis %= codes.ndim

    def spread(values: Array, rows: range) -> Array:
        """The numbers of these rows, such that they broadcast to them."""
        wide = values.astype(np.float64)
        if wide.size == 1:
            return wide.reshape(())
        if block:
            places = rows if axis == 0 else range(codes.shape[axis])
            own = wide if axis == 0 else wide[rows.start : rows.stop]
            return np.asarray(own.take(np.array(places) // block, axis=axis))
        own = wide.reshape([-1 if i == axis else 1 for i in range(codes.ndim)])
        return np.asarray(own[rows.start : rows.stop] if axis == 0 else own)

    step = max(1, _CHUNK * len(codes) // max(codes.size, 1))
    for first in range(0, len(codes), step):
        rows = range(first, min(first + step, len(codes)))
        numbers = codes[rows.start : rows.stop].astype(np.float64)
        centered = numbers if zeros is None else numbers - spread(zeros, rows)
        yield centered * spread(scales, rows)
