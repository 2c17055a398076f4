"""Weights alone: GPTQ and AWQ lower the error of the product, and every stored form computes with the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration import quantize as quantizing
from aigc_calibration.awq import awq_scales
from aigc_calibration.blocks import pack_nbits, pack_zeros
from aigc_calibration.config import QuantConfig, WeightMethod
from aigc_calibration.coverage import check_executed, site_macs
from aigc_calibration.emit import emit
from aigc_calibration.gptq import gptq
from aigc_calibration.grids import GRIDS
from aigc_calibration.hessian import SecondMoments, collect_hessians, product_error
from aigc_calibration.matrices import Reading, from_matrix, reading_of, to_matrix
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import SitePrecision
from aigc_calibration.quantize import quantize
from aigc_calibration.sites import find_sites, weight_array
from aigc_calibration.weight_only import quantize_weights, weight_plan
from aigc_calibration.weights import (
    QuantizedWeight,
    block_scales,
    channel_scales,
    round_to_blocks,
    round_to_channels,
)
from aigc_runtime.core.compare import compare_arrays
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError, UnknownNameError

from .conftest import Batches, initializer, make_graph, small_network
from .formats import FORMATS

INT4 = GRIDS["int4"]


def correlated(rng: np.random.Generator, rows: int = 2000, width: int = 64) -> Array:
    """Inputs whose channels depend on each other, as they do in every network."""
    mix = rng.standard_normal((12, width))
    return (rng.standard_normal((rows, 12)) @ mix + 0.1 * rng.standard_normal((rows, width))).astype(np.float32)


def round_one(weight: Array, hessian: Array, *, block: int | None = None) -> QuantizedWeight:
    (found,) = gptq([("w", weight)], hessian, INT4, block=block)
    return found


def once(weight: Array, hessian: Array) -> QuantizedWeight:
    """By the paper's algorithm alone, which goes through the rows once."""
    (found,) = gptq([("w", weight)], hessian, INT4, block=None, sweeps=0)
    return found


@pytest.mark.parametrize("block", [None, 32, 64])
def test_gptq_lowers_the_error_of_the_product(block: int | None, rng: np.random.Generator) -> None:
    x = correlated(rng)
    weight = rng.standard_normal((64, 20)).astype(np.float32)
    hessian = (x.T @ x / len(x)).astype(np.float64)
    found = round_one(weight, hessian, block=block)
    nearest = round_to_channels("w", weight, 1, INT4) if block is None else round_to_blocks("w", weight, INT4, block)
    exact = x @ weight
    errors = [float(((x @ q.dequantize() - exact) ** 2).mean()) for q in (found, nearest)]
    assert errors[0] < 0.5 * errors[1]
    assert found.codes.min() >= -8
    assert found.codes.max() <= 7
    np.testing.assert_array_equal(found.codes, np.rint(found.codes))


def test_gptq_of_independent_inputs_rounds_to_nearest(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((40, 8)).astype(np.float32)
    found = round_one(weight, np.eye(40))  # and descent finds nothing to move
    expected = round_to_channels("w", weight, 1, INT4, scales=channel_scales(weight, 1, INT4))
    np.testing.assert_array_equal(found.codes, expected.codes)


def test_gptq_is_the_papers_update(rng: np.random.Generator) -> None:
    """Against the plain form of the algorithm: solve for the remaining weights after every rounded one (eq. 2)."""
    rows = 6
    x = rng.standard_normal((50, rows))
    weight = rng.standard_normal((rows, 3)).astype(np.float32)
    hessian = x.T @ x / 50
    damped = hessian + 0.01 * np.mean(np.diag(hessian)) * np.eye(rows)
    scales = channel_scales(weight, 1, INT4).astype(np.float64)
    w, codes = weight.astype(np.float64).copy(), np.zeros_like(weight)
    inverse = np.linalg.inv(damped)
    for i in range(rows):
        codes[i] = np.clip(np.rint(w[i] / scales), -8, 7)
        error = (w[i] - codes[i] * scales) / inverse[0, 0]
        w[i:] -= np.outer(inverse[:, 0], error)
        inverse = (inverse - np.outer(inverse[:, 0], inverse[0]) / inverse[0, 0])[1:, 1:]
    np.testing.assert_array_equal(once(weight, hessian).codes, codes)


def test_block_scales_fit_the_rows_that_matter(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((32, 6)).astype(np.float32)
    weight[0] = 5.0  # would take most of the range
    importance = np.ones(32)
    importance[0] = 1e-6
    plain, weighted, alike = (block_scales(weight, INT4, 32, importance=i)[0] for i in (None, importance, np.ones(32)))
    assert (weighted < plain).all()
    errors = [((INT4.round_trip(weight, s) - weight) ** 2 * importance[:, None]).sum() for s in (weighted, plain)]
    assert errors[0] < errors[1]
    np.testing.assert_array_equal(plain, alike)


def test_zero_points_reach_numbers_of_one_sign(rng: np.random.Generator) -> None:
    """Of numbers from 5 to 6 and zero all sixteen codes are used, where half of them would lie below zero."""
    weight = rng.uniform(5, 6, (32, 6)).astype(np.float32)
    found = round_to_blocks("w", weight, INT4, 32, zero_points=True)
    assert found.zeros is not None
    np.testing.assert_array_equal(found.zeros, np.full((1, 6), -8, dtype=np.int8))
    plain = round_to_blocks("w", weight, INT4, 32)
    errors = [np.square(one.dequantize() - weight).mean() for one in (found, plain)]
    assert errors[0] < 0.5 * errors[1]
    below = round_to_blocks("w", -weight, INT4, 32, zero_points=True)
    np.testing.assert_allclose(below.dequantize(), -found.dequantize(), rtol=0.02)


@pytest.mark.parametrize("search", [True, False])
def test_zero_points_never_make_the_error_larger(search: bool, rng: np.random.Generator) -> None:
    weight = (rng.standard_normal((80, 40)) + rng.standard_normal((1, 40))).astype(np.float32)
    found, plain = (
        round_to_blocks("w", weight, INT4, 32, search=search, zero_points=zero_points) for zero_points in (True, False)
    )
    errors = [np.add.reduceat(np.square(one.dequantize() - weight), [0, 32, 64]) * (1 - 1e-5) for one in (found, plain)]
    assert (errors[0] * (1 - 1e-5) <= errors[1]).all()
    assert (errors[0] < 0.9 * errors[1]).mean() > 0.3


def test_zeros_have_a_zero_point_in_the_middle() -> None:
    found = round_to_blocks("w", np.zeros((32, 3), dtype=np.float32), INT4, 32, zero_points=True)
    assert found.zeros is not None
    assert not found.zeros.any()
    assert not found.dequantize().any()


def test_gptq_finds_zero_points_as_it_goes(rng: np.random.Generator) -> None:
    x = correlated(rng)
    weight = (rng.standard_normal((64, 20)) + 1.5).astype(np.float32)
    hessian = (x.T @ x / len(x)).astype(np.float64)
    found, plain = (
        gptq([("w", weight)], hessian, INT4, block=32, zero_points=zero_points)[0] for zero_points in (True, False)
    )
    assert plain.zeros is None
    assert found.zeros is not None
    assert found.zeros.any()
    assert product_error(weight, found.dequantize(), hessian) < 0.7 * product_error(weight, plain.dequantize(), hessian)
    assert -8 <= found.codes.min() <= found.codes.max() <= 7


def test_int4_uses_all_sixteen_codes() -> None:
    np.testing.assert_array_equal(INT4.round_codes(np.array([-9.0, -8.2, 7.4, 8.0])), [-8, -8, 7, 7])
    # Whole numbers down to -8 come out to within the steps in which scales are searched; codes that stop at -7 would be
    # off by a twelfth and more.
    weight = -np.arange(9, dtype=np.float32)[:, None]
    found = round_to_blocks("w", weight, INT4, 32)
    assert found.codes.min() == -8
    np.testing.assert_allclose(found.dequantize(), weight, rtol=0.01)


def test_a_module_can_be_widened(network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    for node in model.graph:
        node.metadata_props["pkg.torch.onnx.name_scopes"] = repr(["", "model", f"model.net.{node.name}", node.name])
    config = QuantConfig(wide=("net.gemm",))
    found = quantize(model, data, config, precision="int4-weight")
    assert {o.node: o.precision for o in found.plan.ops if o.precision != "int4-weight"} == {"gemm": "int8-weight"}
    (gemm,) = (o for o in found.plan.ops if o.node == "gemm")
    assert gemm.why == "blocks of 32, gptq; the configuration gives it 8 bits"
    assert initializer(found.graph, "w5_quantized").nbytes == 24 / 32 * 32 * 7 + 8 * 7
    eight = weight_plan(model, config, precision="int8-weight")
    assert eight.counts() == {"int8-weight": 5}


@pytest.mark.parametrize("block", [None, 32])
def test_matrices_that_read_one_value_are_rounded_as_if_alone(
    block: int | None, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts: more outputs than a part holds, and parts that reach over two matrices."""
    monkeypatch.setattr("aigc_calibration.gptq.WIDTH", 200)
    x = correlated(rng)
    hessian = (x.T @ x / len(x)).astype(np.float64)
    weights = [(name, rng.standard_normal((64, n)).astype(np.float32)) for name, n in (("a", 700), ("b", 3), ("c", 90))]
    together = gptq(weights, hessian, INT4, block=block)
    for (name, weight), found in zip(weights, together, strict=True):
        alone = round_one(weight, hessian, block=block)
        assert found.name == name
        assert found.scales.shape == alone.scales.shape
        assert (found.codes != alone.codes).mean() < 1e-3  # the products of parts differ in their last bits
        np.testing.assert_allclose(found.scales, alone.scales, rtol=0.02)


def test_gptq_with_channels_that_are_never_used(rng: np.random.Generator) -> None:
    hessian = np.diag([1.0, 0.0, 2.0, 0.0])
    found = round_one(rng.standard_normal((4, 3)).astype(np.float32), hessian)
    assert np.isfinite(found.dequantize()).all()


def test_awq_protects_the_channels_that_matter(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3000, 64)).astype(np.float32)
    x[:, :3] *= 40
    weight = rng.standard_normal((64, 24)).astype(np.float32)
    hessian = (x.T @ x / len(x)).astype(np.float64)

    def rounded(w: Array) -> Array:
        return round_to_blocks("", w, INT4, 32, search=False).dequantize()

    scales, alpha = awq_scales([weight], hessian, rounded)
    assert alpha > 0
    assert scales[:3].min() > scales[3:].max()
    protected = rounded(weight * scales[:, None]) / scales[:, None]
    assert product_error(weight, protected, hessian) < 0.5 * product_error(weight, rounded(weight), hessian)
    plain, none = awq_scales([weight], np.eye(64), rounded)
    assert none == 0
    np.testing.assert_array_equal(plain, np.ones(64))


def test_product_error_is_the_error_of_the_product(rng: np.random.Generator) -> None:
    x, a, b = (rng.standard_normal(s) for s in ((500, 8), (8, 5), (8, 5)))
    expected = ((x @ a - x @ b) ** 2).sum() / 500
    assert product_error(a, b, x.T @ x / 500) == pytest.approx(expected)


def convolution(**attributes: Any) -> tuple[ir.Model, Array, Array]:
    rng = np.random.default_rng(3)
    weight, x = (rng.standard_normal(s).astype(np.float32) for s in ((5, 3, 3, 2), (2, 3, 9, 8)))
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", **attributes)
    return make_graph([node], {"w": weight}, {"x": ["n", 3, 9, 8]}, {"y": ["n", 5, None, None]}), weight, x


@pytest.mark.parametrize(
    "attributes",
    [{}, {"pads": [1, 0, 2, 1]}, {"strides": [2, 3], "pads": [1] * 4}, {"dilations": [2, 1], "pads": [2, 0, 2, 1]}],
)
def test_patches_times_the_matrix_are_the_convolution(attributes: dict[str, object]) -> None:
    model, weight, x = convolution(**attributes)
    (site,) = find_sites(model)
    reading = reading_of(model, site)
    assert reading is not None
    product = reading.rows(x) @ to_matrix(site, weight)
    expected = open_onnx(model)({"x": x})["y"]
    np.testing.assert_allclose(np.moveaxis(expected, 1, -1).reshape(product.shape), product, rtol=1e-4, atol=1e-4)


def test_matrices_go_back() -> None:
    model, _ = small_network()
    for site in find_sites(model):
        weight = weight_array(model, str(site.weight))
        np.testing.assert_array_equal(from_matrix(site, to_matrix(site, weight)), weight)


def test_groups_are_no_plain_matrix() -> None:
    weight = np.ones((4, 2, 1, 1), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", group=2)
    model = make_graph([node], {"w": weight}, {"x": ["n", 4, 3, 3]}, {"y": ["n", 4, 3, 3]})
    assert reading_of(model, find_sites(model)[0]) is None
    plan = weight_plan(model, QuantConfig(), precision="int4-weight")
    assert plan.ops[0].why == "its weight is no plain matrix"


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_second_moments_of_numbers_of_any_size_and_of_few_rows(scale: float, rng: np.random.Generator) -> None:
    """Beside float64: zeros first, then batches that are larger and larger, a row at a time and many."""
    reading = Reading("x", 5, "last")
    rows = [
        np.zeros((300, 5)),
        *(10.0**i * scale * rng.standard_normal((n, 5)) for i, n in enumerate((1, 3, 400, 2))),
    ]
    moments = SecondMoments([reading])
    for x in rows:
        moments.add({"x": x.astype(np.float32)})
    every = np.concatenate(rows).astype(np.float32).astype(np.float64)
    expected = every.T @ every / len(every)
    np.testing.assert_allclose(moments.mean(reading), expected, rtol=1e-4, atol=1e-5 * expected.max())


@pytest.mark.parametrize("shape", [(2, 3, 5), (6, 5)])
def test_a_row_that_counts_three_times_is_three_rows(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    reading, x = Reading("x", 5, "last"), rng.standard_normal((6, 5)).astype(np.float32)
    weights = np.array([[3, 1, 1], [3, 1, 2]], dtype=np.float32)
    weighted, repeated = SecondMoments([reading]), SecondMoments([reading])
    for _ in range(2):  # a batch where all rows count alike behind one where they do not
        weighted.add({"x": x.reshape(shape)}, weights)
        weighted.add({"x": x.reshape(shape)})
        repeated.add({"x": np.repeat(x, weights.ravel().astype(int), axis=0)})
        repeated.add({"x": x})
    np.testing.assert_allclose(weighted.mean(reading), repeated.mean(reading), rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 5), (1, 2, 3, 5), (3, 5)])
def test_weights_of_rows_are_not_those_of_other_values(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Such as the logits of some places, or the heads of attention."""
    reading, x = Reading("x", 5, "last"), rng.standard_normal(shape).astype(np.float32)
    weighted, plain = SecondMoments([reading]), SecondMoments([reading])
    weighted.add({"x": x}, np.full((2, 3), 7, dtype=np.float32) * np.arange(3))
    plain.add({"x": x})
    np.testing.assert_array_equal(weighted.mean(reading), plain.mean(reading))


def rows_by_number(self: Batches, feeds: dict[str, Array]) -> Array:
    """Row i of a batch counts i + 1 times."""
    return np.arange(1, len(next(iter(feeds.values()))) + 1, dtype=np.float32)


@pytest.mark.parametrize("budget_bytes", [2**30, 1])
def test_what_the_data_says_of_its_rows_is_heeded(
    budget_bytes: int, network: tuple[ir.Model, Batches], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = network
    monkeypatch.setattr(Batches, "row_weights", rows_by_number, raising=False)
    readings = [r for s in find_sites(model) if (r := reading_of(model, s)) is not None]
    found = dict(collect_hessians(model, data, readings, budget_bytes=budget_bytes))
    run = open_onnx(model, expose=["r4"])
    r4 = np.concatenate([run(f)["r4"] for f in data.feeds]).astype(np.float64)
    weights = np.concatenate([rows_by_number(data, f) for f in data.feeds])
    expected = (r4.T * weights) @ r4 / weights.sum()
    np.testing.assert_allclose(next(h for r, h in found.items() if r.value == "r4"), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_second_moments_of_what_is_not_finite_say_so(bad: float) -> None:
    reading = Reading("x", 3, "last")
    moments = SecondMoments([reading])
    for x in (np.ones((300, 3)), np.array([[1.0, bad, 0.0]]), np.ones((300, 3))):
        moments.add({"x": x.astype(np.float32)})
    assert np.isnan(moments.mean(reading)).all()


def test_second_moments_in_parts(network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    readings = [r for s in find_sites(model) if (r := reading_of(model, s)) is not None]
    whole = dict(collect_hessians(model, data, readings))
    parts = dict(collect_hessians(model, data, readings, budget_bytes=1))
    assert whole.keys() == parts.keys() == set(readings)
    for reading in readings:
        np.testing.assert_allclose(whole[reading], parts[reading])
    run = open_onnx(model, expose=["r4"])
    r4 = np.concatenate([run(f)["r4"] for f in data.feeds]).astype(np.float64)
    found = next(h for r, h in whole.items() if r.value == "r4")
    np.testing.assert_allclose(found, r4.T @ r4 / len(r4), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("zero_points", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [64, 80, 160])
def test_packed_codes_are_what_onnx_runtime_reads(
    rows: int, bits: int, zero_points: bool, rng: np.random.Generator
) -> None:
    """Of an odd number of blocks half of the last byte of zero points is empty, of 80 rows half of the last block."""
    weight = (rng.standard_normal((rows, 12)) + 0.5).astype(np.float32)
    found = round_to_blocks("w", weight, GRIDS["int4" if bits == 4 else "int8"], 32, zero_points=zero_points)
    inputs = ["x", "b", "s", *(["z"] if zero_points else [])]
    node = helper.make_node(
        "MatMulNBits", inputs, ["y"], "m", domain="com.microsoft", K=rows, N=12, bits=bits, block_size=32
    )
    zeros = (
        [helper.make_tensor("z", 2, [pack_zeros(found).size], pack_zeros(found).tobytes(), raw=True)]
        if zero_points
        else []
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", rows])],
        [helper.make_tensor_value_info("y", 1, ["n", 12])],
        [
            helper.make_tensor("b", 2, pack_nbits(found).shape, pack_nbits(found).tobytes(), raw=True),
            helper.make_tensor("s", 1, [found.scales.size], found.scales.T.astype(np.float32).tobytes(), raw=True),
            *zeros,
        ],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    run = open_onnx(ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10)))
    x = rng.standard_normal((5, rows)).astype(np.float32)
    np.testing.assert_allclose(run({"x": x})["y"], x @ found.dequantize(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("zero_points", [True, False])
@pytest.mark.parametrize("precision", ["int8-weight", "int4-weight"])
@pytest.mark.parametrize("form", list(FORMATS))
def test_every_stored_form_computes_with_the_same_weights(
    precision: SitePrecision, form: str, zero_points: bool, network: tuple[ir.Model, Batches]
) -> None:
    model, data = network
    config = QuantConfig(weight_zero_points=zero_points)
    plan = weight_plan(model, config, precision=precision)
    weights = quantize_weights(model, plan, data, config)
    assert plan.counts() == {precision: 5}
    assert all((one.zeros is not None) == (zero_points and precision == "int4-weight") for one in weights.values())
    rounded = ir.from_proto(ir.to_proto(model))
    for site in find_sites(model):
        values = from_matrix(site, weights[str(site.weight)].dequantize())
        rounded.graph.initializers[str(site.weight)].const_value = ir.tensor(values, name=site.weight)
    emitted = emit(model, plan, weights, FORMATS[form])
    for feeds in data.feeds[:2]:
        # As they stand: optimized, ONNX Runtime makes MatMulNBits of a blocked DequantizeLinear, too.
        expected, actual = (open_onnx(g, optimize=False)(feeds)["y"] for g in (rounded, emitted))
        # MatMulNBits rounds its activations to 8 bits as well.
        assert compare_arrays(expected, actual).sqnr_db > (35 if form == "ort-cpu" else 100)
    assert initializer(emitted, "w4_quantized").nbytes == 256 * 24 // (2 if precision == "int4-weight" else 1)


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
def test_the_whole(method: WeightMethod, network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    found = quantize(
        model,
        data,
        QuantConfig(weight_method=method),
        precision="int4-weight",
    )
    assert (found.statistics.batches == 0) == (method == "rtn")  # which needs no samples
    assert found.coverage.missed == ()
    macs = site_macs(model, data.feeds[0])
    assert found.coverage.executed == pytest.approx((macs["matmul"] + macs["gemm"]) / sum(macs.values()))
    errors = compare_arrays(open_onnx(model)(data.feeds[0])["y"], open_onnx(found.graph)(data.feeds[0])["y"])
    assert errors.sqnr_db > 12


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_statistics_and_second_moments_come_of_one_run(
    method: WeightMethod, network: tuple[ir.Model, Batches], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = network
    runs: list[str] = []
    monkeypatch.setattr(Batches, "batches", lambda data, run: runs.append("run") or iter(data.feeds))  # type: ignore[func-returns-value]
    config = QuantConfig(weight_method=method)
    monkeypatch.setattr(Batches, "row_weights", rows_by_number, raising=False)
    once = quantize(model, data, config, precision="int4-weight")
    at_once = len(runs)
    monkeypatch.setattr(quantizing, "fit_at_once", lambda _: False)
    apart = quantize(model, data, config, precision="int4-weight")
    assert len(runs) - at_once == at_once + 1
    assert once.plan == apart.plan
    assert once.weights.keys() == apart.weights.keys()
    for name, found in once.weights.items():
        np.testing.assert_array_equal(found.codes, apart.weights[name].codes)
        np.testing.assert_array_equal(found.scales, apart.weights[name].scales)


def test_a_graph_of_convolutions_alone_is_stored_in_few_bits() -> None:
    model, _, x = convolution()
    data = Batches(({"x": x},))
    found = quantize(model, data, QuantConfig(), precision="int8-weight")
    assert check_executed(found.graph, found.plan, site_macs(model, {"x": x})).planned == 1.0


def test_bad_configurations() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown weight method 'gptqq'\n.*Did you mean 'gptq'"):
        QuantConfig(weight_method="gptqq")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"block is 48\nvalid: 32, 64, 128"):
        QuantConfig(block=48)
