"""Graphs with If, Loop, Scan and functions are quantized in the main graph, and the rest is float and says why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from aigc_calibration.calibrate import calibrate
from aigc_calibration.calibrated_plan import plan_calibrated
from aigc_calibration.config import QuantConfig
from aigc_calibration.emit import emit
from aigc_calibration.errors import PlanError
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import parse_plan
from aigc_calibration.planner import make_plan, round_weights
from aigc_calibration.prepare import prepare
from aigc_calibration.quantize import Quantized, quantize
from aigc_calibration.search.pair import PrecisionPair
from aigc_calibration.search.probe import make_probe, measure_noise
from aigc_calibration.sites import find_sites, inner_sites, weight_array
from aigc_calibration.smooth import smoothable
from aigc_calibration.split import split_skips
from aigc_runtime.core.compare import compare_arrays

from ..inner_graphs import HEAD, INNER, ONLY_INSIDE, Inner, reference
from .conftest import Batches
from .formats import FORMATS, asked

ROWS = 16
BITS_DB = {"int8": 28.0, "int8-weight": 35.0, "int4-weight": 14.0, "fp16": 60.0, "fp8": 22.0}
"""What rounding to so many bits leaves, about 6 dB a bit below a value's largest number."""


def data_of(inner: Inner) -> Batches:
    return Batches(tuple(inner.sets(4, ROWS)))


def quantized(inner: Inner, precision: str, target: str = "ort-cpu", config: QuantConfig | None = None) -> Quantized:
    return quantize(
        inner.model(),
        data_of(inner),
        config or QuantConfig(),
        precision=precision,  # type: ignore[arg-type]
        **asked(target),
        threads=1,
    )


@pytest.mark.parametrize("name", INNER)
def test_products_in_bodies_are_listed_with_what_they_lie_in(name: str) -> None:
    inner, graph = INNER[name], prepare(INNER[name].model())
    assert len(find_sites(graph)) == inner.outer
    assert not any(site.within for site in find_sites(graph))
    assert tuple(site.within for site in inner_sites(graph)) == inner.within
    names = [site.node for site in (*find_sites(graph), *inner_sites(graph))]
    assert len(set(names)) == len(names)


def test_functions_that_were_not_inlined_are_named() -> None:
    found = [(site.op_type, site.within) for site in inner_sites(INNER["function"].model())]
    assert found == [("MatMul", "the function own::layer"), ("MatMul", "the function own::pair")]


@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt"])
@pytest.mark.parametrize("precision", BITS_DB)
@pytest.mark.parametrize("name", INNER)
def test_the_main_graph_is_quantized_and_bodies_stay_float_with_the_reason(
    name: str, precision: str, target: str
) -> None:
    inner = INNER[name]
    found = quantized(inner, precision, target)
    run = open_onnx(found.graph, threads=1, optimize=target == "ort-cpu")
    for feeds in inner.sets(2, ROWS):
        actual = run(feeds)
        for output, value in reference(inner.proto(), feeds).items():
            assert compare_arrays(value, actual[output]).sqnr_db > BITS_DB[precision], output
    floats = [op for op in found.plan.ops if op.precision == "float"]
    assert len(found.plan.quantized()) == inner.outer
    assert [op.why for op in floats] == [f"it is in {place}, whose values cannot be observed" for place in inner.within]
    assert found.coverage.planned == 1.0
    assert found.coverage.uncounted == len(inner.within)
    assert set(found.coverage.float_sites.values()) == {op.why for op in floats}
    told = {1: "; 1 product in bodies", 2: "; 2 products in bodies"}.get(len(inner.within), "in bodies")
    assert (told in str(found.coverage)) == bool(inner.within)
    assert parse_plan(found.plan.dump()) == found.plan


def test_a_plan_that_quantizes_inside_a_body_is_refused() -> None:
    plan = quantized(INNER["if"], "int8-weight").plan.dump().decode()
    inside = plan.index('"precision": "float"')
    changed = f'{plan[:inside]}"precision": "int8-weight"{plan[inside + len(chr(34) * 4) + 16 :]}'
    with pytest.raises(PlanError, match="quantizes 'product', which is in a body of the If 'choice'"):
        parse_plan(changed.encode())


@pytest.mark.parametrize("precision", BITS_DB)
def test_a_graph_whose_products_are_all_in_a_body_is_refused_with_the_reason(precision: str) -> None:
    inner = Inner(text=ONLY_INSIDE, weights={"w": (16, 16)}, feeds=INNER["function"].feeds, outer=0, within=())
    with pytest.raises(PlanError, match=f"nothing in the graph can be run in {precision}") as caught:
        quantized(inner, precision)
    assert caught.value.hint == "it is in a body of the Loop 'steps', whose values cannot be observed"


def test_a_weight_of_a_site_and_of_a_body_is_quantized_for_the_site_alone() -> None:
    graph = prepare(INNER["if"].model())
    site = find_sites(graph)[0]
    inside = next(s for s in inner_sites(graph) if s.weight == "w")
    assert (site.weight, inside.op_type) == ("first_weight", "MatMul")
    np.testing.assert_array_equal(weight_array(graph, "first_weight"), weight_array(graph, "w"))


def test_a_transposed_weight_that_a_body_reads_as_well() -> None:
    text = """
m (float[N, 16] x, bool c) => (float[N, 16] y) {
  t = Transpose <perm = [1, 0]> (w)
  [site] h = MatMul (x, t)
  y = If (c) <
    then_branch = a () => (float[N, 16] p) { p = MatMul (h, t) },
    else_branch = b () => (float[N, 16] q) { q = Relu (h) }
  >
}
"""
    inner = Inner(text=HEAD + text, weights={"w": (16, 16)}, feeds=_choosing, outer=1, within=())
    found = quantized(inner, "int8")
    for feeds in inner.sets(2, ROWS):
        actual = open_onnx(found.graph, threads=1)(feeds)["y"]
        assert compare_arrays(reference(inner.proto(), feeds)["y"], actual).sqnr_db > BITS_DB["int8"]


def _choosing(rng: np.random.Generator, rows: int) -> dict[str, Any]:
    return {"x": rng.standard_normal((rows, 16)).astype(np.float32), "c": np.array(rows % 2 == 0)}


GAIN = """
m (float[N, 16] x, bool c) => (float[N, 16] y) {
  [gain] g = Mul (x, scale)
  [site] h = MatMul (g, w)
  y = If (c) <
    then_branch = a () => (float[N, 16] p) { p = READS },
    else_branch = b () => (float[N, 16] q) { q = Relu (h) }
  >
}
"""


@pytest.mark.parametrize(("reads", "groups"), [("Exp (h)", 1), ("Add (h, g)", 0), ("Add (h, scale)", 0)])
def test_what_a_body_reads_is_not_scaled(reads: str, groups: int) -> None:
    """The scaled value, or the constant that would take its scale."""
    inner = Inner(
        text=HEAD + GAIN.replace("READS", reads),
        weights={"scale": (16,), "w": (16, 16)},
        feeds=_choosing,
        outer=1,
        within=(),
    )
    graph = prepare(inner.model())
    assert len(smoothable(graph)) == groups
    found = quantized(inner, "int8", config=QuantConfig(smooth={"gain": 0.5}))
    for feeds in inner.sets(2, ROWS):
        actual = open_onnx(found.graph, threads=1)(feeds)["y"]
        assert compare_arrays(reference(inner.proto(), feeds)["y"], actual).sqnr_db > 20


def test_a_concatenation_that_a_body_reads_as_well_is_split_for_the_site_alone() -> None:
    text = """
m (float[N, 16] x, bool c) => (float[N, 16] y) {
  [half] a = Relu (x)
  [join] j = Concat <axis = 1> (x, a)
  [site] h = MatMul (j, w)
  y = If (c) <
    then_branch = a () => (float[N, 16] p) { s = MatMul (j, w)  p = Add (s, h) },
    else_branch = b () => (float[N, 16] q) { q = Relu (h) }
  >
}
"""
    inner = Inner(text=HEAD + text, weights={"w": (32, 16)}, feeds=_choosing, outer=1, within=())
    graph, split = split_skips(prepare(inner.model()))
    assert split == 1
    assert [n.op_type for n in graph.graph].count("Concat") == 1
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    for feeds in inner.sets(2, ROWS):
        actual = reference(graph, feeds)["y"]
        np.testing.assert_allclose(actual, reference(inner.proto(), feeds)["y"], rtol=1e-4, atol=1e-5)
    found = quantized(inner, "int8", "tensorrt", config=QuantConfig(split_skips=True))
    assert found.plan.transforms
    for feeds in inner.sets(2, ROWS):
        actual = open_onnx(found.graph, threads=1, optimize=False)(feeds)["y"]
        assert compare_arrays(reference(inner.proto(), feeds)["y"], actual).sqnr_db > BITS_DB["int8"]


@pytest.mark.parametrize("suffix", ["scale", "zero_point", "quantized", "dequantized"])
@pytest.mark.parametrize("precision", ["int8", "int8-weight"])
def test_a_body_may_call_its_values_what_the_emitter_calls_its_own(suffix: str, precision: str) -> None:
    """The names of an activation's constants and of a weight's."""
    inner = INNER["if"]
    text = inner.text.replace("p = MatMul (r, inside)", f"out_{suffix} = MatMul (r, inside)")
    text = text.replace("[shift] t = Add (p, b)", f"x_{suffix} = Neg (out_{suffix})  t = Sub (b, x_{suffix})")
    changed = replace(inner, text=text)
    found = quantized(changed, precision)
    onnx.checker.check_model(ir.to_proto(found.graph))
    for feeds in inner.sets(2, ROWS):
        actual = open_onnx(found.graph, threads=1)(feeds)["y"]
        assert compare_arrays(reference(inner.proto(), feeds)["y"], actual).sqnr_db > BITS_DB[precision]


@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt"])
@pytest.mark.parametrize("name", INNER)
def test_a_search_measures_the_main_graph_and_leaves_bodies_alone(name: str, target: str) -> None:
    """Every switch on gives the noise of the emitted graph, whose engine does the same in float."""
    inner, config = INNER[name], QuantConfig()
    graph, data = prepare(inner.model()), data_of(inner)
    calibration = calibrate(graph, data, config, precision="int8", threads=1)
    form = FORMATS[target]
    made, plan = plan_calibrated(graph, calibration, config, precision="int8", form=form)
    weights = round_weights(made, plan, config)
    pair = PrecisionPair(name="", graph=made, low=plan, low_weights=weights, high=None, high_weights={}, form=form)
    sites = [op.node for op in plan.quantized()]
    probe = make_probe(pair.toggled(), sites, data.feeds, ["y"])
    assert probe.nodes == tuple(s.node for s in find_sites(made))
    assert measure_noise(probe, ()) == 0
    run = open_onnx(emit(made, plan, weights, form), threads=1, optimize=False)
    noise = signal = 0.0
    for feeds in data.feeds:
        exact = reference(inner.proto(), feeds)["y"]
        noise += float(np.square(run(feeds)["y"] - exact).sum())
        signal += float(np.square(exact).sum())
    assert measure_noise(probe, sites) == pytest.approx(noise / signal, rel=0.02)
    mixed, _ = pair.mix({sites[0]: "costly"})
    assert [op.within for op in mixed.ops if op.within] == list(inner.within)


def test_a_result_that_only_a_body_passes_on_takes_no_range_from_there() -> None:
    """The body's Relu is no value of the main graph: the plan is made, and the result keeps its own range."""
    text = """
m (float[N, 16] x, bool c) => (float[N, 16] y) {
  [site] h = MatMul (x, w)
  [relu] r = Relu (h)
  [second] k = MatMul (r, w)
  y = If (c) <
    then_branch = a () => (float[N, 16] p) { p = Relu (k) },
    else_branch = b () => (float[N, 16] q) { q = Neg (k) }
  >
}
"""
    inner = Inner(text=HEAD + text, weights={"w": (16, 16)}, feeds=_choosing, outer=2, within=())
    graph = prepare(inner.model())
    calibration = calibrate(graph, data_of(inner), QuantConfig(), precision="int8", threads=1)
    plan = make_plan(graph, calibration.statistics, QuantConfig(), precision="int8")
    assert plan.counts() == {"int8": 2}
