"""Constants that a format cannot hold keep their site float, in every precision and form."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.config import QuantConfig
from aigc_calibration.limits import constant_problem
from aigc_calibration.quantise import quantise
from aigc_calibration.sites import find_sites
from aigc_runtime.tensors import Array

from .conftest import Batches, make_graph

PRECISIONS = ("int8", "fp8", "fp16", "bf16", "int8-weight", "int4-weight")


def two_products(bad: float, *, in_bias: bool = False) -> tuple[ir.Model, Batches]:
    """y = relu(x a + b) c, with one bad number in a or in b."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    constants = {"a": normal(64, 64), "b": normal(64), "c": normal(64, 64)}
    constants["b" if in_bias else "a"].flat[3] = bad
    nodes = [
        helper.make_node("Gemm", ["x", "a", "b"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "c"], ["y"], "second"),
    ]
    model = make_graph(nodes, constants, {"x": ["n", 64]}, {"y": ["n", 64]})
    # The bad number meets zeros, so that no activation betrays it.
    feeds = normal(32, 64)
    feeds[:, 0] = 0
    return model, Batches(({"x": feeds[:16]}, {"x": feeds[16:]}))


@pytest.mark.parametrize("form", ["ort-cpu", "tensorrt"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("bad", "why"), [(1e31, "'a' holds a mask constant"), (3.4e38, "'a' holds a mask constant")])
def test_a_mask_constant_in_a_weight(bad: float, why: str, precision: str, form: str) -> None:
    model, data = two_products(bad)
    if form == "tensorrt" and precision.endswith("weight"):
        pytest.skip("weights alone are for ONNX Runtime")
    model.graph.initializers["a"].const_value = ir.tensor(_moved(model, bad), name="a")
    plan = quantise(model, data, QuantConfig(), precision=precision, target=form).plan  # type: ignore[arg-type]
    found = {op.node: (op.precision, op.why) for op in plan.ops}
    assert found["first"] == ("float", why)
    assert found["second"][0] == precision


def _moved(model: ir.Model, bad: float) -> Array:
    """The bad number in the row of the input that is always zero."""
    constant = model.graph.initializers["a"].const_value
    assert constant is not None
    values = constant.numpy().copy()
    values[values == np.float32(bad)] = 0.1
    values[0, 5] = bad
    return values


def test_a_number_beyond_fp16() -> None:
    model, data = two_products(65000.0)
    model.graph.initializers["a"].const_value = ir.tensor(_moved(model, 65000.0), name="a")
    plan = quantise(model, data, QuantConfig(), precision="fp16", target="tensorrt").plan
    first, second = plan.ops
    assert (first.precision, second.precision) == ("float", "fp16")
    assert first.why.startswith("'a' reaches 6.5e+04")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(bad: float) -> None:
    model, _ = two_products(bad)
    first, second = find_sites(model)
    assert constant_problem(model, first) == "'a' holds NaN or infinity"
    assert constant_problem(model, second) == ""


def test_the_bias_counts_where_it_is_brought_to_the_format() -> None:
    model, _ = two_products(1e5, in_bias=True)
    first, _ = find_sites(model)
    assert constant_problem(model, first, largest=16376) == ""
    assert constant_problem(model, first, largest=16376, bias=True).startswith("'b' reaches 1e+05")
