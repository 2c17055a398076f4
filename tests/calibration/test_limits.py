"""Constants that a format cannot hold keep their site float, in every precision and form."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.config import QuantConfig
from aigc_calibration.limits import constant_problem
from aigc_calibration.plan import SitePrecision
from aigc_calibration.quantize import quantize
from aigc_calibration.sites import find_sites
from aigc_runtime.core.tensors import Array

from .conftest import Batches, initializer, make_graph
from .formats import asked

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
def test_a_mask_constant_in_a_weight(bad: float, why: str, precision: SitePrecision, form: str) -> None:
    model, data = two_products(bad)
    if form == "tensorrt" and precision.endswith("weight"):
        pytest.skip("weights alone are for ONNX Runtime")
    model.graph.initializers["a"].const_value = ir.tensor(_moved(model, bad), name="a")
    plan = quantize(model, data, QuantConfig(), precision=precision, **asked(form)).plan
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
    plan = quantize(model, data, QuantConfig(), precision="fp16", **asked("tensorrt")).plan
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


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_weight_too_near_zero(precision: SitePrecision) -> None:
    """1e-31 has no scale that float32 holds well, and its products have none at all; a zero weight has no problem."""
    for factor, stays in ((1e-31, True), (0.0, False)):
        model, data = two_products(0.0)
        tiny = initializer(model, "a").numpy() * np.float32(factor)
        model.graph.initializers["a"].const_value = ir.tensor(tiny, name="a")
        plan = quantize(model, data, QuantConfig(), precision=precision).plan
        first = plan.ops[0]
        assert (first.precision == "float") == stays
        if stays:
            assert re.fullmatch(r"'a' reaches \S+e-3\d at most, too near zero for the format", first.why)


def test_numbers_below_what_fp16_rounds_well() -> None:
    """1e-5 has 8 of 11 bits in fp16 and 1e-8 none."""
    for factor, stays in ((1e-8, True), (1e-5, True), (1e-2, False)):
        model, data = two_products(0.0)
        small = initializer(model, "a").numpy() * np.float32(factor)
        model.graph.initializers["a"].const_value = ir.tensor(small, name="a")
        for precision in ("fp16", "bf16"):
            first = quantize(model, data, QuantConfig(), precision=precision).plan.ops[0]
            assert (first.precision == "float") == (stays and precision == "fp16")


@pytest.mark.parametrize("precision", ["int8-weight", "int4-weight"])
@pytest.mark.parametrize("bad", [np.inf, 1e31])
def test_no_weight_is_fitted_to_a_mask(bad: float, precision: SitePrecision) -> None:
    model, data = two_products(0.0)
    next(n for n in model.graph if n.op_type == "Relu").op_type = "Tanh"
    feeds = {"x": data.feeds[0]["x"].copy()}
    feeds["x"][0, 0] = bad
    weight = initializer(model, "a").numpy().copy()
    weight[0] = np.abs(weight[0]) + 0.1
    model.graph.initializers["a"].const_value = ir.tensor(weight, name="a")
    plan = quantize(model, Batches((feeds,)), QuantConfig(), precision=precision).plan
    assert plan.ops[0].why == "'x' holds a mask constant or infinity"


def test_second_moments_of_any_magnitude() -> None:
    """Squares of 1e25 and of 1e-25 are no float32 numbers: GPTQ ends in the same codes as for 1."""
    model, data = two_products(0.0)
    found = {}
    for factor in (1.0, 2.0**83, 2.0**-83):
        scaled = tuple({"x": f["x"] * np.float32(factor)} for f in data.feeds)
        graph = quantize(model, Batches(scaled), QuantConfig(), precision="int4-weight").graph
        found[factor] = initializer(graph, "a_quantized").numpy()
    for codes in found.values():
        np.testing.assert_array_equal(codes, found[1.0])


def test_a_result_that_was_zero_in_every_sample(rng: np.random.Generator) -> None:
    """Its range would be nothing at all, and whatever comes later would be cut to it."""
    weight, bias = rng.standard_normal((3, 2, 3, 3)).astype(np.float32), np.full(3, -1e3, np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w2"], ["t"], "second", pads=[1] * 4),
        helper.make_node("Tanh", ["t"], ["y"], "tanh"),
        helper.make_node("Conv", ["x", "w3"], ["u"], "third", pads=[1] * 4),
        helper.make_node("Tanh", ["u"], ["z"], "tanh2"),
    ]
    constants = {"w1": weight, "b1": bias, "w2": np.ones((2, 3, 3, 3), np.float32), "w3": weight}
    model = make_graph(nodes, constants, {"x": ["n", 2, 4, 4]}, {"y": ["n", 2, 4, 4], "z": ["n", 3, 4, 4]})
    data = Batches(({"x": rng.standard_normal((4, 2, 4, 4)).astype(np.float32)},))
    plan = quantize(model, data, QuantConfig(), precision="int8").plan
    why = {op.node: op.why for op in plan.ops if op.precision == "float"}
    assert why == {"first": "'c' was zero in every sample", "second": "'r' was zero in every sample"}
