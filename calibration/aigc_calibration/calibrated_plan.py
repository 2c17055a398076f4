"""Plan a calibrated graph: what a configuration leaves open is as the calibration says, or chosen on samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.calibrate import Calibration, check_kind, smoothed
from aigc_calibration.choose_float import MUCH_FOR_LITTLE, FloatChoice, can_choose, choose_float, with_float_sites
from aigc_calibration.choose_ranges import CANDIDATES, choose_ranges, with_methods
from aigc_calibration.config import QuantConfig
from aigc_calibration.data import CalibrationData
from aigc_calibration.emit import plan_for
from aigc_calibration.errors import CalibrationError
from aigc_calibration.fit_codes import fit_codes
from aigc_calibration.formats import QdqFormat
from aigc_calibration.loud_rows import LoudRows
from aigc_calibration.plan import HALF_PRECISIONS, QuantizationPlan, SitePrecision, as_site_precision
from aigc_calibration.planner import UNCHOSEN, half_plan, make_plan, round_weights
from aigc_calibration.ranges import METHODS, Method
from aigc_calibration.weights import QuantizedWeight
from aigc_runtime.core.progress import Progress

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["plan_calibrated", "plan_chosen", "with_choice"]


def plan_calibrated(
    prepared: ir.Model, calibration: Calibration, config: QuantConfig, *, precision: SitePrecision, form: QdqFormat
) -> tuple[ir.Model, QuantizationPlan]:
    """Smooth a graph by its calibration and plan it.

    Raises:
        CalibrationError: the calibration is that of another graph, or for another precision.
    """
    graph, plans = _plans(prepared, calibration, (config,), precision=precision, form=form)
    return graph, plans[0]


def _plans(
    prepared: ir.Model,
    calibration: Calibration,
    configs: Sequence[QuantConfig],
    *,
    precision: SitePrecision,
    form: QdqFormat,
) -> tuple[ir.Model, list[QuantizationPlan]]:
    """Smooth a graph and plan it by configurations that differ in how ranges are found."""
    graph, transforms = smoothed(prepared, calibration, attention=configs[0].attention)
    check_kind(calibration, precision)
    if precision in HALF_PRECISIONS:
        # Modules are kept float for the sake of 8 bits; 16 bits take them as well.
        made = [
            half_plan(graph, calibration.statistics, replace(config, sensitive=()), precision=precision)
            for config in configs
        ]
    else:
        made = [
            make_plan(graph, calibration.statistics, config, precision=precision, transforms=transforms)
            for config in configs
        ]
    return graph, [plan_for(plan, form, graph) for plan in made]


def plan_chosen(
    prepared: ir.Model,
    data: CalibrationData,
    calibration: Calibration,
    config: QuantConfig,
    *,
    precision: SitePrecision,
    form: QdqFormat,
    outputs: Sequence[str] = (),
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[ir.Model, QuantizationPlan, dict[str, QuantizedWeight]]:
    """Smooth a graph by its calibration, plan it and round its weights.

    What the configuration leaves to `auto` is as the calibration says, and else chosen on samples.

    Args:
        prepared: the float graph.
        data: samples to choose on.
        calibration: of the graph.
        config: methods and exceptions.
        precision: one of `CALIBRATED`.
        form: of the engine.
        outputs: names of the results that count; none: all.
        threads: of the engine.
        progress: called after every run over the samples that choices are made on.

    Raises:
        CalibrationError: the calibration is that of another graph, or for another precision, or holds no codes and
            they were asked for.
        CancelledError: `progress` returned False.
    """
    samples = _ChoiceInputs(data, calibration.loud, form, outputs, threads, progress)
    if config.ranges != "auto" or precision != "int8":
        graph, plan = plan_calibrated(prepared, calibration, config, precision=precision, form=form)
        weights = {} if precision in HALF_PRECISIONS else _rounded(graph, plan, config, calibration, threads)
        floats = _float_sites(graph, plan, weights, calibration, config, samples)
        return graph, *_with_floats(plan, weights, floats)
    every = [replace(config, ranges=method) for method in CANDIDATES]
    graph, made = _plans(prepared, calibration, every, precision=precision, form=form)
    plans = dict(zip(CANDIDATES, made, strict=True))
    if calibration.methods:
        plan = with_methods(graph, plans, calibration.methods, calibration.choice)
        weights = _rounded(graph, plan, config, calibration, threads)
        floats = _float_sites(graph, plan, weights, calibration, config, samples)
        return graph, *_with_floats(plan, weights, floats)
    first = _rounded(graph, plans[UNCHOSEN], config, calibration, threads)
    start, rounded = plans[UNCHOSEN], first
    if calibration.float_sites is None and can_choose(data, config.float_share):
        start, rounded = _with_ranges(graph, plans, first, config, samples, alike=True)
    floats = _float_sites(graph, start, rounded, calibration, config, samples)
    # Each range is chosen last: beside what is float by then, small noise is not hidden by large.
    whys = dict.fromkeys(floats.nodes, MUCH_FOR_LITTLE)
    left = {method: one.with_float(whys) for method, one in plans.items()}
    plan, weights = _with_ranges(graph, left, first, config, samples)
    return graph, *_with_floats(plan, weights, floats)


@dataclass(frozen=True)
class _ChoiceInputs:
    """What choices are made on, and who is told: see `plan_chosen`."""

    data: CalibrationData
    loud: LoudRows | None
    form: QdqFormat
    outputs: Sequence[str]
    threads: int | None
    progress: Progress | None

    def wanted(self, graph: ir.Model) -> Sequence[str]:
        return self.outputs or [str(value.name) for value in graph.graph.outputs]


def _with_ranges(
    graph: ir.Model,
    plans: Mapping[Method, QuantizationPlan],
    weights: Mapping[str, QuantizedWeight],
    config: QuantConfig,
    samples: _ChoiceInputs,
    *,
    alike: bool = False,
) -> tuple[QuantizationPlan, dict[str, QuantizedWeight]]:
    """Choose ranges among plans, and round again what follows them.

    Args:
        graph: of the plans.
        plans: by the method of their ranges.
        weights: as they are rounded for the plan of `UNCHOSEN`.
        config: methods.
        samples: to choose on.
        alike: see `choose_ranges`.
    """
    plan = choose_ranges(
        graph,
        plans,
        weights,
        samples.data,
        samples.form,
        outputs=samples.wanted(graph),
        alike=alike,
        loud=samples.loud,
        threads=samples.threads,
        progress=samples.progress,
    )
    # A scale that made room for the bias follows the range.
    last = round_weights(graph, plan, config, before=(plans[UNCHOSEN], weights), threads=samples.threads)
    return plan, _with_codes(last, weights)


def _float_sites(
    graph: ir.Model,
    plan: QuantizationPlan,
    weights: Mapping[str, QuantizedWeight],
    calibration: Calibration,
    config: QuantConfig,
    samples: _ChoiceInputs,
) -> FloatChoice:
    """The sites that stay float as the calibration says, and else as is chosen on samples."""
    if config.float_share <= 0 or plan.precision in HALF_PRECISIONS:
        return FloatChoice()
    if calibration.float_sites is None:
        return choose_float(
            graph,
            plan,
            weights,
            samples.data,
            samples.form,
            share=config.float_share,
            outputs=samples.wanted(graph),
            loud=samples.loud,
            threads=samples.threads,
            progress=samples.progress,
        )
    quantized = {op.node for op in plan.quantized()}
    kept = tuple(node for node in calibration.float_sites if node in quantized)
    return FloatChoice(nodes=kept, note=calibration.float_choice) if len(kept) < len(quantized) else FloatChoice()


def _with_floats(
    plan: QuantizationPlan, weights: Mapping[str, QuantizedWeight], floats: FloatChoice
) -> tuple[QuantizationPlan, dict[str, QuantizedWeight]]:
    """Leave sites float; their weights have no codes."""
    if floats.nodes:
        plan = with_float_sites(plan, floats.nodes, floats.note)
    used = {op.weight for op in plan.quantized()}
    return plan, {name: weight for name, weight in weights.items() if name in used}


def _rounded(
    graph: ir.Model, plan: QuantizationPlan, config: QuantConfig, calibration: Calibration, threads: int | None
) -> dict[str, QuantizedWeight]:
    """Round to the nearest codes, then by the samples, or as it was done before."""
    nearest = round_weights(graph, plan, config, threads=threads)
    if config.method_for(as_site_precision(plan.precision)) == "rtn":
        return nearest
    if calibration.moments is not None:
        return fit_codes(graph, plan, nearest, calibration.moments, threads=threads)
    if config.weight_method == "gptq" and not calibration.codes:
        raise CalibrationError(
            "the calibration holds no codes of weights, since it was made with weights rounded to nearest",
            hint="leave --weight-method out, or run `aigc-export calibrate` with it",
        )
    return _with_codes(nearest, calibration.codes)


def _with_codes(
    nearest: Mapping[str, QuantizedWeight], fitted: Mapping[str, QuantizedWeight]
) -> dict[str, QuantizedWeight]:
    """Take the fitted codes of weights whose scales are the same."""
    found = {}
    for name, weight in nearest.items():
        other = fitted.get(name, weight)
        same = other.grid == weight.grid and other.axis == weight.axis and other.codes.shape == weight.codes.shape
        found[name] = other if same and np.array_equal(other.scales, weight.scales) else weight
    return found


def with_choice(
    calibration: Calibration, plan: QuantizationPlan, weights: Mapping[str, QuantizedWeight]
) -> Calibration:
    """Keep in a calibration what was chosen for a plan of it, so that other plans need not choose."""
    methods: dict[str, Method] = {t.name: method for t in plan.tensors for method in METHODS if t.method == method}
    fitted = weights if calibration.moments is not None else calibration.codes
    floats = tuple(op.node for op in plan.ops if op.why == MUCH_FOR_LITTLE)
    notes = list(plan.notes)
    calibration = replace(
        calibration,
        moments=None,
        loud=None,
        codes=dict(fitted),
        float_sites=floats,
        float_choice=notes.pop() if floats else "",
    )
    return replace(calibration, methods=methods, choice=notes[-1]) if notes else calibration
