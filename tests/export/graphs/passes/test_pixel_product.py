"""A transposed convolution of one pixel is a product, and no other is taken for one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from aigc_calibration.sites import SCOPES, find_sites, scope_path
from aigc_export.graphs.passes import check_and_run, run_passes
from aigc_export.graphs.passes.pixel_product import multiply_pixels
from aigc_export.targets.ort_cpu import ORT_CPU
from aigc_export.targets.tensorrt.target import TENSORRT_RTX
from aigc_runtime.core.tensors import Array

PASS = [("multiply-pixels", multiply_pixels)]


def weights(c: int, m: int, kernel: tuple[int, int], group: int = 1) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((c, m // group, *kernel)).astype(np.float32), rng.standard_normal(m).astype(np.float32)


def network(
    *,
    kernel: tuple[int, int] = (4, 4),
    sides: tuple[Any, Any] = (1, 1),
    bias: str = "constant",
    twice: bool = False,
    group: int = 1,
    **attributes: Any,
) -> ir.Model:
    """ConvTranspose of 6 channels to 8, on N pixels."""
    weight, offset = weights(6, 8, kernel, group)
    constants = {"w": weight} | ({"b": offset} if bias == "constant" else {})
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6, *sides])]
    if bias == "given":
        inputs.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [8]))
    operands = ["x", "w", *(["b"] if bias != "none" else [])]
    nodes = [helper.make_node("ConvTranspose", operands, ["y"], "up", group=group, **attributes)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, None, None])]
    if twice:
        nodes.append(helper.make_node("Neg", ["w"], ["z"]))
        outputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [6, 8, *kernel]))
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(value, name) for name, value in constants.items()]
    )
    opset = helper.make_opsetid("", 20)
    model: ir.Model = ir.from_proto(helper.make_model(graph, opset_imports=[opset], ir_version=10))
    return model


def pixels(n: int) -> Array:
    return np.random.default_rng(1).standard_normal((n, 6, 1, 1)).astype(np.float32)


@pytest.mark.parametrize("bias", ["constant", "none"])
@pytest.mark.parametrize(("kernel", "strides"), [((4, 4), (1, 1)), ((3, 5), (2, 3)), ((1, 1), (1, 1))])
def test_it_is_pytorchs(kernel: tuple[int, int], strides: tuple[int, int], bias: str) -> None:
    feeds = [{"x": pixels(n)} for n in (1, 3)]
    model = network(kernel=kernel, bias=bias, strides=list(strides))
    made, _ = run_passes(model, PASS, feeds=feeds)
    added = ["Add"] if bias == "constant" else []
    assert [node.op_type for node in made.graph] == ["Reshape", "MatMul", "Reshape", *added]
    weight, offset = weights(6, 8, kernel)
    for feed, found in zip(feeds, check_and_run(made, feeds), strict=True):
        theirs = torch.nn.functional.conv_transpose2d(
            torch.from_numpy(feed["x"]),
            torch.from_numpy(weight),
            torch.from_numpy(offset) if added else None,
            stride=strides,
        )
        np.testing.assert_allclose(found["y"], theirs.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        network(sides=(2, 1)),
        network(sides=("h", "w")),
        network(pads=[1, 1, 1, 1]),
        network(pads=[0, 0, 1, 0]),
        network(strides=[2, 2], output_padding=[1, 1]),
        network(dilations=[2, 2]),
        network(group=2),
        network(output_shape=[5, 5]),
        network(auto_pad="SAME_UPPER", strides=[2, 2]),
        network(bias="given"),
        network(twice=True),
    ],
    ids=[
        "two rows",
        "unknown sides",
        "pads",
        "a pad at one side",
        "output padding",
        "dilated",
        "groups",
        "a shape",
        "automatic pads",
        "a computed bias",
        "a weight of others",
    ],
)
def test_what_looks_like_it_stays(model: ir.Model) -> None:
    before = [node.op_type for node in model.graph]
    assert [node.op_type for node in multiply_pixels(model).graph] == before


def test_the_product_is_of_the_convolutions_module() -> None:
    """A normalization was folded into it: its scopes are those of the norm, and its weight says whose it is."""
    model = network()
    (node,) = model.graph
    node.metadata_props[SCOPES] = "['', 'model', 'model.main', 'model.main.1', 'batch_norm']"
    weight = node.inputs[1]
    assert weight is not None
    model.graph.initializers.pop("w")
    weight.name = "model.main.0.weight"
    model.graph.initializers["model.main.0.weight"] = weight
    assert [site.module for site in find_sites(model)] == ["main.0"]
    made = multiply_pixels(model)
    assert [(site.module, site.op_type) for site in find_sites(made)] == [("main.0", "MatMul")]
    assert {scope_path(made_node) for made_node in made.graph} == {"main.0"}


def test_it_is_for_processors() -> None:
    assert "multiply-pixels" in dict(ORT_CPU.passes)
    assert "multiply-pixels" not in dict(TENSORRT_RTX.passes)
