"""Small graphs with known answers, and data for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_calibration.onnx_function import OnnxFunction
from aigc_runtime.core.tensors import Array

Shape = Sequence[int | str | None]
"""Sizes, names of dimensions, and None for what is not known."""


def initializer(model: ir.Model, name: str) -> ir.TensorProtocol:
    """The tensor of an initializer."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor


def make_graph(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Array | np.generic],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    opset: int = 20,
) -> ir.Model:
    """A checked graph of float inputs and outputs, with the shapes of all values, as the exporter records them."""
    graph = helper.make_graph(
        list(nodes),
        "toy",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


@dataclass(frozen=True)
class Batches:
    """Calibration data from arrays that are simply there."""

    feeds: tuple[dict[str, Array], ...]

    @property
    def samples(self) -> int:
        return sum(len(next(iter(f.values()))) for f in self.feeds)

    @property
    def rows(self) -> int:
        return self.samples

    def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        yield from self.feeds


def small_network(seed: int = 0) -> tuple[ir.Model, Batches]:
    """Conv -> Relu -> ConvTranspose -> Relu -> Conv -> Reshape -> MatMul -> Relu -> Gemm, with biases."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1), np.float32)

    constants = {
        "w1": normal(6, 2, 3, 3),
        "b1": normal(6),
        "w2": normal(6, 5, 4, 4),
        "b2": normal(5),
        "w3": normal(4, 5, 3, 3),
        "b3": normal(4),
        "flat": np.array([0, -1], dtype=np.int64),
        "w4": normal(4 * 64, 24),
        "w5": normal(7, 24),
        "b5": normal(7),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("ConvTranspose", ["r1", "w2", "b2"], ["c2"], "up", strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"], "conv3", pads=[1] * 4),
        helper.make_node("Reshape", ["c3", "flat"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "w4"], ["m"], "matmul"),
        helper.make_node("Relu", ["m"], ["r4"], "relu4"),
        helper.make_node("Gemm", ["r4", "w5", "b5"], ["y"], "gemm", transB=1),
    ]
    model = make_graph(nodes, constants, {"x": ["n", 2, 4, 4]}, {"y": ["n", 7]})
    feeds = tuple({"x": rng.standard_normal((8, 2, 4, 4)).astype(np.float32)} for _ in range(6))
    return model, Batches(feeds)


@pytest.fixture
def network() -> tuple[ir.Model, Batches]:
    return small_network()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
