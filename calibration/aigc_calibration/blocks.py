"""Weights in blocks, as a graph holds them: inside MatMulNBits, or behind a DequantizeLinear with a block size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.config import BLOCKS
from aigc_calibration.edit import add_constant
from aigc_calibration.weights import QuantizedWeight
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["dequantize_blocks", "kernel_block", "pack_nbits", "pack_zeros", "to_matmul_nbits"]


def to_matmul_nbits(graph: ir.Graph, node: ir.Node, weight: QuantizedWeight) -> None:
    """`MatMul(x, W)` or `Gemm(x, W, b)` -> `com.microsoft::MatMulNBits`."""
    import onnx_ir as ir

    rows, columns = weight.codes.shape
    weight = _in_kernel_blocks(weight)
    packed = add_constant(graph, f"{weight.name}_quantized", pack_nbits(weight))
    scales = add_constant(graph, f"{weight.name}_scale", np.ascontiguousarray(weight.scales.T).reshape(-1))
    inputs = [node.inputs[0], packed, scales]
    if weight.zeros is not None:
        inputs.append(add_constant(graph, f"{weight.name}_zero_point", pack_zeros(weight).reshape(-1)))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        inputs += [*[None] * (5 - len(inputs)), node.inputs[2]]
    # Level 4 multiplies in int8, with a scale per block of the activations made on the fly; without it 8-bit weights
    # ran 8 times slower than float ones (onnxruntime 1.32, AVX-512).
    attributes = {"K": rows, "N": columns, "bits": weight.grid.bits, "block_size": weight.block, "accuracy_level": 4}
    product = ir.node("MatMulNBits", inputs, attributes, domain="com.microsoft", name=node.name)
    result, new = node.outputs[0], product.outputs[0]
    new.shape, new.type, name = result.shape, result.type, result.name
    product.metadata_props.update(node.metadata_props)
    graph.insert_before(node, product)
    result.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    new.name = name
    graph.opset_imports["com.microsoft"] = 1


def kernel_block(width: int) -> int | None:
    """The most numbers that kernels take in a block and that divide a width; None where none does.

    >>> kernel_block(576), kernel_block(2048), kernel_block(100)
    (64, 128, None)
    """
    return max((block for block in BLOCKS if width % block == 0), default=None)


def _in_kernel_blocks(weight: QuantizedWeight) -> QuantizedWeight:
    """A weight with one scale for all that is summed, in blocks that kernels take, of equal scales."""
    rows = len(weight.codes)
    if weight.block != rows or rows in BLOCKS:
        return weight
    block = kernel_block(rows)
    assert block is not None
    assert weight.zeros is None
    return replace(weight, block=block, scales=np.repeat(weight.scales, rows // block, axis=0))


def dequantize_blocks(graph: ir.Graph, node: ir.Node, weight: QuantizedWeight, shape: tuple[int, ...]) -> ir.Value:
    """Codes [in, out] -> DQ along `in` -> the layout that the node reads, of `shape` (opset 21); the result."""
    import ml_dtypes
    import onnx_ir as ir

    kind = ml_dtypes.int4 if weight.grid.bits == 4 else np.int8
    stored = add_constant(graph, f"{weight.name}_quantized", weight.codes.astype(kind))
    scale = add_constant(graph, f"{weight.name}_scale", weight.scales)
    operands = [stored, scale]
    if weight.zeros is not None:
        operands.append(add_constant(graph, f"{weight.name}_zero_point", weight.zeros.astype(kind)))
    elif kind is np.int8:
        # Where products must not saturate, ONNX Runtime 1.32 makes codes unsigned, and gives blocks without zero points
        # a single one, which their own operator refuses when it runs.
        zeros = np.zeros(weight.scales.shape, dtype=np.int8)
        operands.append(add_constant(graph, f"{weight.name}_zero_point", zeros))
    attributes = {"axis": 0, "block_size": weight.block}
    nodes = [ir.node("DequantizeLinear", operands, attributes, name=f"{weight.name}_dequantize")]
    if node.op_type == "Conv" or (node.op_type == "Gemm" and shape != weight.codes.shape):
        nodes.append(ir.node("Transpose", [nodes[-1].outputs[0]], {"perm": [1, 0]}, name=f"{weight.name}_transpose"))
    if len(shape) != 2:
        sizes = add_constant(graph, f"{weight.name}_shape", np.array(shape, dtype=np.int64))
        nodes.append(ir.node("Reshape", [nodes[-1].outputs[0], sizes], name=f"{weight.name}_reshape"))
    for made in nodes:
        made.outputs[0].name = f"{made.name}d"
    graph.insert_before(node, nodes)
    graph.opset_imports[""] = max(graph.opset_imports[""], 21)
    return nodes[-1].outputs[0]


def pack_nbits(weight: QuantizedWeight) -> Array:
    """[out, blocks, bytes] uint8 as MatMulNBits reads it: codes plus half the range, two 4-bit codes in a byte.

    The first of two codes is in the lower half; the last block is filled up with zeros of the grid.
    """
    rows, columns = weight.codes.shape
    block, bits = weight.block or rows, weight.grid.bits
    blocks = -(-rows // block)
    codes = np.empty((columns, blocks * block), dtype=np.uint8)
    codes[:, :rows] = _unsigned(weight.codes.T, bits)
    codes[:, rows:] = _unsigned(np.zeros(columns) if weight.zeros is None else weight.zeros[-1], bits)[:, None]
    codes = codes.reshape(columns, blocks, block)
    return codes if bits == 8 else _in_pairs(codes)


def pack_zeros(weight: QuantizedWeight) -> Array:
    """[out, bytes] uint8, the zero points of each output's blocks, as MatMulNBits reads them: see `pack_nbits`."""
    assert weight.zeros is not None
    bits = weight.grid.bits
    zeros = weight.zeros.T
    if bits == 8:
        return np.ascontiguousarray(_unsigned(zeros, bits))
    return _in_pairs(_unsigned(np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2))), bits))


def _unsigned(codes: Array, bits: int) -> Array:
    """Codes plus half the range, uint8."""
    return (codes.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)


def _in_pairs(codes: Array) -> Array:
    """Two 4-bit codes in a byte along the last axis."""
    paired: Array = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return paired
