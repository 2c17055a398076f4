"""A sum and its norm become one operator, and only where it is that norm."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from aigc_calibration.onnx_function import open_onnx
from aigc_export.graphs.passes.decoder.skip_norm import fuse_skip_norms

from .decoders import decoder, operators, results
from .texts import graph, value

FUSED = "SkipSimplifiedLayerNormalization"
SIGNATURE = "float[b,s,8] a, float[b,s,8] b, float[8] g => float[b,s,8] y, float[b,s,8] x"
BODY = """ x = Add(a, b)
    two = Constant<value = float {{{power}}}>()
    eps = Constant<value = float {{0.001}}>()
    axis = Constant<value = int64[1] {{{axis}}}>()
    squared = Pow(x, two)
    mean = ReduceMean<keepdims = 1>(squared, axis)
    more = Add(mean, eps)
    root = Sqrt(more)
    normed = Div(x, root)
    y = Mul(normed, g)"""


def norm(signature: str = SIGNATURE, *, power: float = 2, axis: int = -1) -> ir.Model:
    """A sum and its norm, the constants of which are initializers."""
    model = graph(signature, BODY.format(power=power, axis=axis))
    for node in [node for node in model.graph if node.op_type == "Constant"]:
        made = ir.Value(name=f"{node.outputs[0].name}_number", const_value=node.attributes["value"].as_tensor())
        made.shape, made.type = node.outputs[0].shape, node.outputs[0].type
        model.graph.register_initializer(made)
        node.outputs[0].replace_all_uses_with(made)
        model.graph.remove(node, safe=True)
    gain = model.graph.inputs[2]
    model.graph.inputs.remove(gain)
    gain.const_value = ir.tensor(np.linspace(0.5, 2, 8, dtype=np.float32), name="g")
    model.graph.register_initializer(gain)
    return model


def test_the_sum_and_its_norm_are_what_they_were() -> None:
    """Beside the formula itself, in float64."""
    model = fuse_skip_norms(norm())
    assert [node.op_type for node in model.graph] == [FUSED]
    a, b = np.random.default_rng(0).standard_normal((2, 3, 5, 8)).astype(np.float32)
    found = open_onnx(model, optimize=False, packed=False)({"a": a, "b": b})
    x = a.astype(np.float64) + b
    np.testing.assert_allclose(found["x"], x, rtol=1e-6)
    wanted = x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.001) * np.linspace(0.5, 2, 8)
    np.testing.assert_allclose(found["y"], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        norm(power=3),
        norm(axis=1),
        norm(SIGNATURE.replace("float[b,s,8] b", "float[1,s,8] b")),
        norm(SIGNATURE.replace("float[b,s,8]", "float[b,8]")),
    ],
    ids=["cubes", "other axis", "broadcast", "two axes"],
)
def test_any_other_norm_is_left_alone(model: ir.Model) -> None:
    before = [node.op_type for node in model.graph]
    assert [node.op_type for node in fuse_skip_norms(model).graph] == before


def test_a_norm_whose_inside_is_read_is_left_alone() -> None:
    model = norm()
    model.graph.outputs.append(value(model, "normed"))
    assert operators(fuse_skip_norms(model), FUSED) == 0


def test_a_decoder_norms_every_sum_but_the_last_that_is_selected_from() -> None:
    interface, model = decoder()
    _, fused = decoder()
    assert operators(fuse_skip_norms(fused), FUSED) == 3
    for one, other in zip(results(model, interface), results(fused, interface), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
