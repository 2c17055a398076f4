"""Zero, tiny, huge and dead weights in every precision: the engine computes what the plan means, codes times scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, example, given, reject, settings
from hypothesis import strategies as st

from aigc_calibration.calibrate import CALIBRATED, calibrate
from aigc_calibration.calibrated_plan import plan_calibrated
from aigc_calibration.config import QuantConfig
from aigc_calibration.coverage import executed_sites
from aigc_calibration.emit import emit, plan_for
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import HALF_PRECISIONS, QuantizationPlan, SitePrecision
from aigc_calibration.planner import round_weights
from aigc_calibration.prepare import prepare
from aigc_calibration.weight_only import quantize_weights, weight_plan
from aigc_calibration.weights import QuantizedWeight

from .conftest import Batches
from .formats import FORMATS
from .odd_graphs import BETWEEN, BIASES, IMAGES, ROWS, WEIGHTS, Layer, Recipe, build, recipes
from .reference import Reference, distance

PRECISIONS: tuple[SitePrecision, ...] = ("int8", "int8", "int8-weight", "int4-weight", "fp16", "bf16", "fp8")
FAR = 1e-4
"""Of the largest number of a result: a hundred times what float32 sums lose."""


def planned(
    model: ir.Model, data: Batches, precision: SitePrecision, target: str, kept: frozenset[str]
) -> tuple[ir.Model, QuantizationPlan, Mapping[str, QuantizedWeight]]:
    config, why = QuantConfig(), dict.fromkeys(kept, "asked to stay float")
    prepared = prepare(model)
    if precision not in CALIBRATED:
        plan = weight_plan(prepared, config, precision=precision).with_float(why)
        return prepared, plan, quantize_weights(prepared, plan, data, config)
    calibration = calibrate(prepared, data, config, precision=precision)
    graph, plan = plan_calibrated(prepared, calibration, config, precision=precision, form=FORMATS[target])
    plan = plan_for(plan.with_float(why), FORMATS[target], graph)
    return graph, plan, {} if precision in HALF_PRECISIONS else round_weights(graph, plan, config)


def check(recipe: Recipe, precision: SitePrecision, target: str) -> None:
    model, data = build(recipe)
    if any(not np.isfinite(open_onnx(model)(feeds)["y"]).all() for feeds in data.feeds):
        reject()  # the float graph itself overflows
    kept = frozenset(f"site{number}" for number in recipe.kept)
    graph, plan, weights = planned(model, data, precision, target, kept)
    form, own = FORMATS[target], target == "ort-cpu"
    emitted = emit(graph, plan, weights, form)
    for feeds in data.feeds:
        actual = open_onnx(emitted, optimize=own)(feeds)["y"]
        assert distance(Reference(graph, plan, weights, form)(feeds)["y"], actual) < FAR
    if own:
        executed_sites(emitted, plan)


def targets(precision: SitePrecision) -> st.SearchStrategy[str]:
    """Weights alone are for ONNX Runtime, whose CPU has no kernels for TensorRT's bf16."""
    others = [] if precision == "bf16" or precision.endswith("weight") else ["tensorrt"]
    return st.sampled_from(["ort-cpu", "ort-cpu", *others])


@st.composite
def settings_of_an_export(draw: st.DrawFn) -> tuple[SitePrecision, str]:
    precision = draw(st.sampled_from(PRECISIONS))
    return precision, draw(targets(precision))


QUIET = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}


FAR_BELOW_ZERO = Recipe(
    layers=(
        Layer(kind="MatMul", out=6, weight="normal", dead=0.0, bias="normal", between=("Relu", "Add")),
        Layer(kind="MatMul", out=6, weight="normal", dead=0.0, bias=None, between=()),
        Layer(kind="Gemm with factors", out=2, weight="normal", dead=None, bias=None, between=("Sigmoid",)),
    ),
    rank=0,
    width=6,
    x="normal",
    kept=frozenset(),
    seed=0,
)
"""Sigmoids of numbers below -9, whose results are all smaller than 0.0002."""


@settings(max_examples=25, **QUIET)  # type: ignore[arg-type]
@example(recipe=FAR_BELOW_ZERO, export=("int8", "ort-cpu"))
@given(recipe=recipes(), export=settings_of_an_export())
def test_the_engine_computes_what_the_plan_means(recipe: Recipe, export: tuple[SitePrecision, str]) -> None:
    check(recipe, *export)


@pytest.mark.stress
@pytest.mark.timeout(1800)
@settings(max_examples=600, **QUIET)  # type: ignore[arg-type]
@given(recipe=recipes(), export=settings_of_an_export())
def test_the_engine_computes_what_the_plan_means_in_hundreds_of_graphs(
    recipe: Recipe, export: tuple[SitePrecision, str]
) -> None:
    check(recipe, *export)


def test_the_check_can_fail() -> None:
    """One code of one weight moved by one, a bias of another sign, a range of another tensor."""
    model, data = build(Recipe(layers=(Layer(kind="Gemm", out=4), Layer(kind="Gemm", out=2))))
    graph, plan, weights = planned(model, data, "int8", "ort-cpu", frozenset())
    feeds, form = data.feeds[0], FORMATS["ort-cpu"]

    def far(plan: QuantizationPlan, weights: Mapping[str, QuantizedWeight]) -> float:
        actual = open_onnx(emit(graph, plan, weights, form))(feeds)["y"]
        return distance(meant(feeds)["y"], actual)

    meant = Reference(graph, plan, weights, form)
    assert far(plan, weights) < FAR
    name, weight = next(iter(weights.items()))
    codes = weight.codes.copy()
    codes[0, 0] += 1 if codes[0, 0] < 0 else -1
    assert far(plan, {**weights, name: replace(weight, codes=codes)}) > FAR
    moved = tuple(replace(t, bounds=(2 * t.bounds[0], t.bounds[1])) for t in plan.tensors if t.bounds is not None)
    assert far(replace(plan, tensors=moved), weights) > FAR


def test_every_operator_and_manner_is_drawn() -> None:
    seen: set[object] = set()

    @settings(max_examples=300, database=None, derandomize=True, **QUIET)  # type: ignore[arg-type]
    @given(recipes())
    def look(recipe: Recipe) -> None:
        for layer in recipe.layers:
            seen.update({layer.kind, layer.weight, layer.bias, layer.dead, *layer.between})

    look()
    assert seen >= {*IMAGES, *ROWS, *WEIGHTS, *BIASES, *BETWEEN, None, 0.0}
