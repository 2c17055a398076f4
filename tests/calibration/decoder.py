"""A small decoder: layers that add to a residual stream, with channels of it that are many times the others."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from aigc_calibration.prepare import prepare
from aigc_runtime.core.tensors import Array

from .conftest import Batches, make_graph

WIDTH, HIDDEN, ROWS, TOKENS, LAYERS = 24, 40, 16, 50, 2
Norm = Literal["rms", "layer", "written out"]


def decoder(
    norm: Norm = "rms", *, loud: float = 1.0, head_bias: bool = True, seed: int = 0
) -> tuple[ir.Model, Batches]:
    """A table, layers of a norm, a product, Tanh and a product that is added, and a norm and a product at the end.

    Args:
        norm: how it is written: RMS from its parts, LayerNormalization, or that from its parts.
        loud: how many times as large as the others a channel of the stream is; the weights that read it take it back.
        head_bias: whether the product at the end has a bias; without, it makes the graph's result.
        seed: of all numbers.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return np.asarray(rng.standard_normal(shape) / shape[0] ** 0.5, np.float32)

    large = np.ones(WIDTH, np.float32)
    large[5] = loud
    constants: dict[str, Array | np.generic] = {
        "table": rng.standard_normal((TOKENS, WIDTH)).astype(np.float32) * large,
        "positions": normal(ROWS, WIDTH),
        "two": np.float32(2),
        "eps": np.float32(1e-5),
        "last": np.array([-1], np.int64),
        "kept": np.array([3, 7], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["ids"], "cast", to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "ids"], ["e"], "embed"),
        helper.make_node("Add", ["e", "positions"], ["h0"], "place"),
    ]
    for i in range(LAYERS):
        nodes += _norm(norm, f"h{i}", f"n{i}")
        constants[f"gain_n{i}"] = (1 + rng.standard_normal(WIDTH) / 8).astype(np.float32)
        constants[f"bias_n{i}"] = normal(WIDTH)
        constants |= {f"up{i}": normal(WIDTH, HIDDEN) / large[:, None], f"down{i}": normal(HIDDEN, WIDTH) * large}
        constants[f"add{i}"] = normal(WIDTH)
        nodes += [
            helper.make_node("MatMul", [f"n{i}", f"up{i}"], [f"u{i}"], f"up_{i}"),
            helper.make_node("Tanh", [f"u{i}"], [f"t{i}"], f"tanh_{i}"),
            helper.make_node("MatMul", [f"t{i}", f"down{i}"], [f"d{i}"], f"down_{i}"),
            helper.make_node("Add", [f"d{i}", f"add{i}"], [f"b{i}"], f"bias_{i}"),
            helper.make_node("Add", [f"h{i}", f"b{i}"], [f"h{i + 1}"], f"sum_{i}"),
        ]
    nodes.append(helper.make_node("Gather", [f"h{LAYERS}", "kept"], ["rows"], "keep", axis=1))
    nodes += _norm(norm, "rows", "end")
    constants |= {"gain_end": np.ones(WIDTH, np.float32), "bias_end": normal(WIDTH), "head_bias": normal(TOKENS)}
    constants["head"] = normal(WIDTH, TOKENS) / large[:, None]
    nodes.append(helper.make_node("MatMul", ["end", "head"], ["z" if head_bias else "y"], "head_product"))
    if head_bias:
        nodes.append(helper.make_node("Add", ["z", "head_bias"], ["y"], "head_sum"))
    read = {name for node in nodes for name in node.input}
    constants = {name: array for name, array in constants.items() if name in read}
    model = make_graph(nodes, constants, {"x": ["n", ROWS]}, {"y": ["n", 2, TOKENS]})
    feeds = ({"x": rng.integers(0, TOKENS, (4, ROWS)).astype(np.float32)} for _ in range(6))
    return prepare(model), Batches(tuple(feeds))


def _norm(kind: Norm, x: str, y: str) -> list[onnx.NodeProto]:
    if kind == "layer":
        return [helper.make_node("LayerNormalization", [x, f"gain_{y}", f"bias_{y}"], [y], f"norm_{y}", axis=-1)]
    centered, first = (f"c_{y}", []) if kind == "written out" else (x, [])
    if kind == "written out":
        first = [
            helper.make_node("ReduceMean", [x, "last"], [f"m_{y}"], f"mean_{y}"),
            helper.make_node("Sub", [x, f"m_{y}"], [centered], f"center_{y}"),
        ]
    return [
        *first,
        helper.make_node("Pow", [centered, "two"], [f"p_{y}"], f"square_{y}"),
        helper.make_node("ReduceMean", [f"p_{y}", "last"], [f"v_{y}"], f"variance_{y}"),
        helper.make_node("Add", [f"v_{y}", "eps"], [f"a_{y}"], f"eps_{y}"),
        helper.make_node("Sqrt", [f"a_{y}"], [f"s_{y}"], f"root_{y}"),
        helper.make_node("Div", [centered, f"s_{y}"], [f"q_{y}"], f"divide_{y}"),
        helper.make_node("Mul", [f"q_{y}", f"gain_{y}"], [y], f"norm_{y}"),
    ]
