"""Products of a prompt's tokens with whole rows of 8-bit codes, in place of blocks of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_calibration.edit import add_constant
from aigc_calibration.prepare import copy_graph
from aigc_export.graphs.passes.decoder.pattern import MICROSOFT, constant_of, sizes_known
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["has_row_products", "multiply_rows"]

_QMAX = 127
"""The largest code of a token's numbers: around zero."""
_LEAST = np.float32(1e-30)
"""Of a token's largest magnitude: zeros alone have a scale, too."""


@dataclass(frozen=True, kw_only=True)
class _Product:
    """A product that can be one of whole rows.

    Attributes:
        node: a MatMulNBits of 8 bits.
        width: numbers that are summed.
        columns: numbers that it gives for each token.
        scales: [columns, 1] float32, one for all codes of a row.
        bias: [columns, 1] float32; None for none.
    """

    node: ir.Node
    width: int
    columns: int
    scales: Array
    bias: Array | None


def multiply_rows(model: ir.Model, step_dim: str | None) -> ir.Model:
    """Round each token's numbers with one scale, and multiply its codes by whole rows of a weight's.

    Graph before: `y = MatMulNBits(x, W, s)` with x [..., S, K], codes W [N, K / b, b] in blocks, and scales
    s [N, K / b] of which those of a row are equal. After, with T = ... * S tokens:

        a = max |x| / 127 of each token                          [T]
        q = QuantizeLinear(x, a)                                  [T, K] int8
        y = Transpose(QGemm(W - 128, q^T) a s + bias)             [T, N], then [..., S, N]

    A weight's codes are the same bytes in the same order: engines of both forms read one file, and nothing is packed
    anew when it is opened. They are unsigned, tokens signed: the one order that x86 processors have instructions for.

    1. MatMulNBits of 8 bits around 128, without a permutation, whose blocks divide K and whose rows have one scale
       each: changed. A row that is one block has one scale.
    2. Products of other values than a run's new steps, such as the logits of a few places: as they are.
    3. Products of one value share its codes.

    It is not exact: tokens are rounded with one scale in place of one for every block. Any opset from 18; the main
    graph; a graph without such a product is returned as it is.

    Args:
        model: of an engine that reads prompts; not changed.
        step_dim: the dimension of new steps; None for an engine that has none.
    """
    if step_dim is None or not any(_product(node, step_dim) for node in model.graph):
        return model
    model = copy_graph(model)
    found = [product for node in model.graph if (product := _product(node, step_dim)) is not None]
    codes: dict[str, _Tokens] = {}
    for product in found:
        source = product.node.inputs[0]
        assert source is not None
        name = str(source.name)
        if name not in codes:
            codes[name] = _round_tokens(model.graph, product, source)
        _multiply(model.graph, product, codes[name])
    return model


def has_row_products(model: ir.Model) -> bool:
    """Whether a graph multiplies whole rows: `multiply_rows` made it."""
    return any(node.op_type == "QGemm" and node.domain == MICROSOFT for node in model.graph)


def _product(node: ir.Node, step_dim: str) -> _Product | None:
    if node.op_type != "MatMulNBits" or node.domain != MICROSOFT or node.attributes.get_int("bits", 4) != 8:
        return None
    width, columns = (node.attributes[name].as_int() for name in ("K", "N"))
    sizes = sizes_known(node.outputs[0])
    if sizes is None or step_dim not in sizes[:-1] or any(_given(node, place) for place in (3, 4)):
        return None
    scales, bias = constant_of(node.inputs[2]), constant_of(node.inputs[5]) if _given(node, 5) else None
    blocks = width // node.attributes["block_size"].as_int()
    if scales is None or scales.size != columns * blocks or (_given(node, 5) and bias is None):
        return None
    by_row = scales.reshape(columns, blocks)
    if (by_row != by_row[:, :1]).any():
        return None
    return _Product(
        node=node,
        width=width,
        columns=columns,
        scales=np.ascontiguousarray(by_row[:, :1], dtype=np.float32),
        bias=None if bias is None else np.asarray(bias, dtype=np.float32).reshape(columns, 1),
    )


def _given(node: ir.Node, place: int) -> bool:
    return len(node.inputs) > place and node.inputs[place] is not None


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """The numbers of all tokens of a value, rounded.

    Attributes:
        codes: [T, K] int8.
        scales: [T] float32.
        zeros: [T] int8, zero.
        sizes: int64, those of the value but the last.
    """

    codes: ir.Value
    scales: ir.Value
    zeros: ir.Value
    sizes: ir.Value


class _Nodes:
    """Makes nodes in order, their names after a prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.made: list[ir.Node] = []

    def add(self, op_type: str, inputs: list[ir.Value], *, domain: str = "", **attributes: Any) -> ir.Value:
        import onnx_ir as ir

        node = ir.node(op_type, inputs, attributes, domain=domain, name=f"{self.prefix}_{len(self.made)}_{op_type}")
        node.outputs[0].name = f"{node.name}_value"
        self.made.append(node)
        return node.outputs[0]


def _round_tokens(graph: ir.Graph, product: _Product, source: ir.Value) -> _Tokens:
    import onnx_ir as ir

    def constant(name: str, array: Array) -> ir.Value:
        return add_constant(graph, f"rows_{name}", array)

    nodes = _Nodes(f"{source.name}_tokens")
    sizes = constant(f"of_{product.width}", np.array([-1, product.width], dtype=np.int64))
    tokens = nodes.add("Reshape", [source, sizes])
    largest = nodes.add(
        "ReduceMax", [nodes.add("Abs", [tokens]), constant("axis", np.array([1], dtype=np.int64))], keepdims=0
    )
    present = nodes.add("Max", [largest, constant("least", np.array(_LEAST))])
    scales = nodes.add("Mul", [present, constant("step", np.array(np.float32(1 / _QMAX)))])
    zero = ir.tensor(np.zeros(1, dtype=np.int8))
    zeros = nodes.add("ConstantOfShape", [nodes.add("Shape", [scales])], value=zero)
    codes = nodes.add("QuantizeLinear", [tokens, scales, zeros], axis=0)
    before = nodes.add("Shape", [source], start=0, end=-1)
    graph.insert_before(product.node, nodes.made)
    return _Tokens(codes=codes, scales=scales, zeros=zeros, sizes=before)


def _multiply(graph: ir.Graph, product: _Product, tokens: _Tokens) -> None:
    node, nodes = product.node, _Nodes(f"{product.node.name}_rows")
    weight = _as_rows(graph, product)
    one = add_constant(graph, "rows_one", np.array(1, dtype=np.float32))
    middle = add_constant(graph, "rows_middle", np.array(128, dtype=np.uint8))
    scales = add_constant(graph, f"{nodes.prefix}_scale", product.scales)
    # A column of what the operator gives is a token's, and columns have scales of their own.
    made = nodes.add(
        "QGemm", [weight, one, middle, tokens.codes, tokens.scales, tokens.zeros], domain=MICROSOFT, transB=1
    )
    made = nodes.add("Mul", [made, scales])
    if product.bias is not None:
        made = nodes.add("Add", [made, add_constant(graph, f"{nodes.prefix}_bias", product.bias)])
    rows = nodes.add("Transpose", [made], perm=[1, 0])
    columns = add_constant(graph, f"rows_{product.columns}_columns", np.array([product.columns], dtype=np.int64))
    result = nodes.add("Reshape", [rows, nodes.add("Concat", [tokens.sizes, columns], axis=0)])
    old = node.outputs[0]
    result.shape, result.type, name = old.shape, old.type, old.name
    graph.insert_before(node, nodes.made)
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    constants = [value for value in node.inputs[1:] if value is not None]
    graph.remove(node, safe=True)
    result.name = name
    for value in constants:
        if not list(value.uses()) and not value.is_graph_output():
            del graph.initializers[str(value.name)]


def _as_rows(graph: ir.Graph, product: _Product) -> ir.Value:
    """The codes of a weight as a matrix [N, K] of the same bytes."""
    import onnx_ir as ir

    blocks = product.node.inputs[1]
    assert blocks is not None
    stored = blocks.const_value
    assert stored is not None
    name, sizes = f"{blocks.name}_rows", (product.columns, product.width)

    def rows() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(stored.numpy().reshape(sizes)), name=name)

    return add_constant(graph, name, ir.LazyTensor(rows, dtype=stored.dtype, shape=ir.Shape(sizes), name=name))
