"""The whole of quantisation: a float model and its data in, a quantised graph and its plan out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aigc_calibration.collect import Statistics, collect
from aigc_calibration.config import QuantConfig
from aigc_calibration.coverage import LEAST_EXECUTED, Coverage, check_executed, site_macs
from aigc_calibration.data import CalibrationData
from aigc_calibration.emit import FORMS, HALVES, Form, emit, plan_for
from aigc_calibration.plan import QuantizationPlan, SitePrecision
from aigc_calibration.planner import half_plan, make_plan, round_weights, watched
from aigc_calibration.prepare import prepare
from aigc_calibration.sites import find_sites
from aigc_calibration.smooth import smooth, smoothable
from aigc_calibration.weight_only import apply_awq, quantise_weights, weight_plan
from aigc_calibration.weights import QuantizedWeight
from aigc_runtime.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Quantised", "quantise"]

Progress = Callable[[str, int], None]
"""Called as progress(what is collected, samples seen)."""


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """What quantisation made.

    Attributes:
        graph: in the target's form.
        plan: that it was emitted from.
        statistics: that the plan was made from.
        coverage: what the engine runs in low precision.
    """

    graph: ir.Model
    plan: QuantizationPlan
    statistics: Statistics
    coverage: Coverage


def quantise(
    model: ir.Model,
    data: CalibrationData,
    config: QuantConfig,
    *,
    precision: SitePrecision,
    target: str = "ort-cpu",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Quantised:
    """Calibrate and quantise.

    Args:
        model: the float graph; not changed.
        data: batches for every input of the graph.
        config: methods and exceptions.
        precision: `fp16` or `bf16` for the operands of products, `int8` or `fp8` for activations and weights,
            `int8-weight` or `int4-weight` for weights alone.
        target: key of `emit.FORMS`.
        threads: of the engine that calibrates.
        progress: called after every batch.

    Raises:
        CalibrationError: the data cannot be used.
        PlanError: the engine would not run what the plan says.
    """
    if precision in {"int8-weight", "int4-weight"}:
        return _quantise_weights(prepare(model), data, config, precision, target, threads)

    def watch(what: str) -> Callable[[int], None]:
        return lambda seen: progress(what, seen) if progress is not None else None

    graph, transforms = prepare(model), []
    form = FORMS[target]
    if precision in HALVES:
        everything = {n for s in find_sites(graph) for n in (*s.activations, s.output)}
        statistics = collect(graph, data, everything, threads=threads, progress=watch("ranges"))
        # Modules are kept float for the sake of 8 bits; 16 bits take them as well.
        plan = half_plan(graph, statistics, replace(config, keep_float=()), precision=precision)
        return _emitted(graph, data, plan, {}, statistics, form, threads)
    groups = [g for g in smoothable(graph) if g.source in config.smooth]
    if groups:
        amax: dict[str, Array] = {}
        for axis in sorted({g.channel_axis for g in groups}):
            names = [g.value for g in groups if g.channel_axis == axis]
            seen = collect(
                graph, data, (), channels=names, channel_axis=axis, threads=threads, progress=watch("channels")
            )
            amax.update({name: t.channel_amax for name, t in seen.tensors.items() if t.channel_amax is not None})
        graph = smooth(graph, amax, config.smooth)
        transforms.append(f"SmoothQuant on {len(groups)} values, {dict(sorted(config.smooth.items()))}")
    statistics = collect(graph, data, watched(graph), threads=threads, progress=watch("ranges"))
    plan = plan_for(make_plan(graph, statistics, config, precision=precision, transforms=tuple(transforms)), form)
    return _emitted(graph, data, plan, round_weights(graph, plan), statistics, form, threads)


def _emitted(
    graph: ir.Model,
    data: CalibrationData,
    plan: QuantizationPlan,
    weights: Mapping[str, QuantizedWeight],
    statistics: Statistics,
    form: Form,
    threads: int | None,
) -> Quantised:
    emitted = emit(graph, plan, weights, form)
    macs = site_macs(graph, next(data.batches(graph, threads=threads)))
    # A plan in a format that ONNX Runtime only stores and rounds to has nothing to be executed.
    stored = (plan.precision in HALVES and not form.half_arithmetic) or (
        plan.precision == "fp8" and not form.fp8_arithmetic
    )
    coverage = check_executed(emitted, plan, macs, least=0.0 if stored else LEAST_EXECUTED)
    return Quantised(graph=emitted, plan=plan, statistics=statistics, coverage=coverage)


def _quantise_weights(
    graph: ir.Model,
    data: CalibrationData,
    config: QuantConfig,
    precision: SitePrecision,
    target: str,
    threads: int | None,
) -> Quantised:
    transforms: tuple[str, ...] = ()
    if config.weight_method == "awq":
        graph, scaled = apply_awq(graph, data, config, precision=precision, threads=threads)
        transforms = (f"AWQ on {scaled} values",)
    plan = weight_plan(graph, config, precision=precision, transforms=transforms)
    weights = quantise_weights(graph, plan, data, config, threads=threads)
    return _emitted(graph, data, plan, weights, collect(graph, data, (), threads=threads), FORMS[target], threads)
