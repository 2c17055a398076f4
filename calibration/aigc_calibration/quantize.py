"""Quantize: a float model and its data in, a quantized graph and its plan out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from aigc_calibration.calibrate import CALIBRATED, Calibration, calibrate, check_kind, fits_samples
from aigc_calibration.calibrated_plan import plan_chosen
from aigc_calibration.choose_blocks import choose_blocks
from aigc_calibration.collect import Statistics, collect
from aigc_calibration.config import QuantConfig
from aigc_calibration.coverage import Coverage, Executed, check_executed, executed_sites, site_macs
from aigc_calibration.data import CalibrationData, row_weights
from aigc_calibration.emit import emit
from aigc_calibration.errors import PlanError
from aigc_calibration.few_samples import FewSamples
from aigc_calibration.formats import UNSIGNED_FORMAT, QdqFormat
from aigc_calibration.hessian import SecondMoments, fit_at_once
from aigc_calibration.limits import value_problem
from aigc_calibration.lookups import with_lookups
from aigc_calibration.onnx_function import opened_when_called
from aigc_calibration.plan import HALF_PRECISIONS, QuantizationPlan, SitePrecision
from aigc_calibration.prepare import prepare
from aigc_calibration.sites import find_sites
from aigc_calibration.smooth_gains import smooth_gains
from aigc_calibration.weight_only import apply_awq, quantize_weights, readings_of, weight_plan
from aigc_calibration.weights import QuantizedWeight
from aigc_runtime.core.progress import Progress, phase
from aigc_runtime.core.tensors import Array
from aigc_runtime.system.host_memory import give_back_memory

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "NO_SAMPLES",
    "Fitted",
    "Quantized",
    "fit_weights",
    "quantize",
    "with_sites_float",
]

COUNTED_FOR_WEIGHTS = 13
"""Every so manyth number of what weights alone are multiplied with is counted: its magnitude is all that is asked for.
It divides no usual width, so that all channels have their turn."""
RUNS_IN_FLOAT = "the engine runs it in float"
"""Why a site stays float that was to be low precision: what it is fed to or from keeps the engine from it."""


NO_SAMPLES = Statistics(tensors={}, samples=0, batches=0, samples_sha256="")
"""Of a plan that no samples were needed for."""


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """The result of quantization.

    Attributes:
        graph: in the target's form.
        plan: that it was emitted from.
        statistics: that the plan was made from; `NO_SAMPLES` where it needed none.
        coverage: what the engine runs in low precision.
        float_graph: that the plan belongs to; None for a mix that a search has found.
        weights: codes of every weight that the plan quantizes.
        kept_float: a sentence on the sites that stay float for the sake of the outputs; empty where none does.
    """

    graph: ir.Model
    plan: QuantizationPlan
    statistics: Statistics
    coverage: Coverage
    float_graph: ir.Model | None = None
    weights: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    kept_float: str = ""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Weights alone, rounded.

    Attributes:
        graph: that the plan belongs to.
        plan: of it.
        weights: codes of every weight that the plan quantizes.
        statistics: of what the weights are multiplied with; `NO_SAMPLES` where none were needed.
    """

    graph: ir.Model
    plan: QuantizationPlan
    weights: Mapping[str, QuantizedWeight]
    statistics: Statistics


def quantize(
    model: ir.Model,
    data: CalibrationData,
    config: QuantConfig,
    *,
    precision: SitePrecision,
    form: QdqFormat = UNSIGNED_FORMAT,
    executed: Executed = executed_sites,
    calibration: Calibration | None = None,
    outputs: Sequence[str] = (),
    threads: int | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Calibrate and quantize.

    Args:
        model: the float graph; not changed.
        data: batches for every input of the graph; with a `calibration`, one is enough, to count work on.
        config: methods and exceptions.
        precision: `fp16` or `bf16` for the operands of products, `int8` or `fp8` for activations and weights,
            `int8-weight` or `int4-weight` for weights alone.
        form: in which the engine takes the graph.
        executed: what the engine really runs in few bits; see `check_executed`.
        calibration: of an earlier run; None calibrates now.
        outputs: names of the results that count where choices are made by what they do to results; none: all.
        threads: of the engine that calibrates.
        progress: called after every batch, with the rows that were read and all rows.

    Raises:
        CalibrationError: the data or the calibration cannot be used.
        CancelledError: `progress` returned False.
        PlanError: the engine would not run what the plan says.
    """
    prepared = prepare(model)
    if precision not in CALIBRATED:
        if calibration is not None:
            check_kind(calibration, precision)
        made = fit_weights(prepared, data, config, precision=precision, threads=threads, progress=progress)
        return _emitted(made.graph, data, config, made.plan, made.weights, made.statistics, form, executed, threads)
    if calibration is None:
        calibration = calibrate(prepared, data, config, precision=precision, threads=threads, progress=progress)
    found = calibration

    def made_by(chosen: QuantConfig) -> Quantized:
        graph, plan, weights = plan_chosen(
            prepared,
            data,
            found,
            chosen,
            precision=precision,
            form=form,
            outputs=outputs,
            threads=threads,
            progress=progress,
        )
        return _emitted(graph, data, chosen, plan, weights, found.statistics, form, executed, threads)

    try:
        return made_by(config)
    except PlanError:
        if not config.float_share:
            raise
        # The sites that are left may be those that the engine runs in float anyway: then none is float by choice.
        return made_by(replace(config, float_share=0.0))


def with_sites_float(
    found: Quantized,
    nodes: Collection[str],
    why: str,
    *,
    note: str,
    data: CalibrationData,
    config: QuantConfig,
    form: QdqFormat = UNSIGNED_FORMAT,
    executed: Executed = executed_sites,
    threads: int | None = None,
) -> Quantized:
    """Leave some sites of a quantized graph float, and prove again what of the rest the engine runs.

    Args:
        found: of `quantize`, with its float graph.
        nodes: the sites.
        why: of each of them, a sentence.
        note: on all of them, for the plan.
        data: one batch is enough, to count work on.
        config: of tables that are looked up.
        form: see `quantize`, as for the rest.
        executed: what the engine really runs in few bits.
        threads: of the engine.

    Raises:
        PlanError: the engine would not run what is left of the plan.
    """
    assert found.float_graph is not None
    plan = found.plan.with_float(dict.fromkeys(nodes, why))
    plan = replace(plan, notes=(*plan.notes, note))
    used = {op.weight for op in plan.quantized()}
    weights = {name: codes for name, codes in found.weights.items() if name in used}
    made = _emitted(found.float_graph, data, config, plan, weights, found.statistics, form, executed, threads)
    return replace(made, kept_float=note)


def _emitted(
    graph: ir.Model,
    data: CalibrationData,
    config: QuantConfig,
    plan: QuantizationPlan,
    weights: Mapping[str, QuantizedWeight],
    statistics: Statistics,
    form: QdqFormat,
    executed: Executed,
    threads: int | None,
) -> Quantized:
    plan, weights = with_lookups(graph, plan, weights, config, form)
    emitted = emit(graph, plan, weights, form)
    feeds = next(data.batches(opened_when_called(graph, threads=threads)))
    give_back_memory()
    macs = site_macs(graph, feeds)
    give_back_memory()
    # A plan in a format that the engine only stores and rounds to has nothing to be executed.
    stored = (plan.precision in HALF_PRECISIONS and not form.half_arithmetic) or (
        plan.precision == "fp8" and not form.fp8_arithmetic
    )
    coverage = check_executed(emitted, plan, macs, executed, least=0.0)
    # What the engine runs in float anyway stays float: rounding it would cost quality and gain nothing.
    while coverage.missed and not stored:
        plan = plan.with_float(dict.fromkeys(coverage.missed, RUNS_IN_FLOAT))
        kept = {op.weight for op in plan.quantized()}
        weights = {name: codes for name, codes in weights.items() if name in kept}
        plan, weights = with_lookups(graph, plan, weights, config, form)
        emitted = emit(graph, plan, weights, form)
        coverage = check_executed(emitted, plan, macs, executed, least=0.0)
    return Quantized(
        graph=emitted, plan=plan, statistics=statistics, coverage=coverage, float_graph=graph, weights=weights
    )


def fit_weights(
    graph: ir.Model,
    data: CalibrationData,
    config: QuantConfig,
    *,
    precision: SitePrecision,
    smooths: bool | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Round weights alone, by the samples where the method reads any.

    Args:
        graph: of `prepare`.
        data: that they are fitted to.
        config: methods and exceptions.
        precision: `int8-weight` or `int4-weight`.
        smooths: whether gains are smoothed; None: as the configuration says of the precision.
        threads: of the engine.
        progress: called after every batch, with the rows that were read and all rows.

    Raises:
        CalibrationError: the data cannot be used.
        CancelledError: `progress` returned False.
    """
    report = phase(progress, "second moments", data.rows)
    transforms: tuple[str, ...] = ()
    method = config.method_for(precision)
    statistics, moments = NO_SAMPLES, None
    if config.smooths_gains(precision) if smooths is None else smooths:
        found = phase(progress, "channels", FewSamples(data).rows)
        graph, count, read = smooth_gains(graph, data, config.gain_smoothing, threads=threads, progress=found)
        if read is not None:
            statistics = read
            transforms = (f"SmoothQuant on {count} values, {{'gain': {config.gain_smoothing:g}}}",)
    if method == "awq":
        graph, scaled = apply_awq(graph, data, config, precision=precision, threads=threads, progress=report)
        transforms = (f"AWQ on {scaled} values",)
    plan = weight_plan(graph, config, precision=precision, transforms=transforms)
    if config.chooses_blocks(precision):
        found = phase(progress, "sizes of blocks", FewSamples(data).rows)
        plan = choose_blocks(graph, plan, data, whole_rows=config.whole_rows, threads=threads, progress=found)
    # Watched for what no weight can be fitted to, and so that the two halves of the samples can be compared.
    nodes = {op.node for op in plan.quantized()} if fits_samples(config, precision) else set()
    fitted = {site.node: site.activations for site in find_sites(graph) if site.node in nodes}
    watched = {value for values in fitted.values() for value in values}
    # Rounding to nearest needs no samples, and making them may run the model for minutes.
    if nodes:
        readings = readings_of(graph, plan)
        # The same run serves both, where there is room for all matrices.
        if watched >= {r.value for r in readings} and fit_at_once(readings):
            moments = SecondMoments(readings)
        observe = None if moments is None else partial(_add_batch, moments, data)
        progressed = None if moments is None else report
        statistics = collect(
            graph, data, watched, every=COUNTED_FOR_WEIGHTS, observe=observe, threads=threads, progress=progressed
        )
    seen = {name: found.histogram for name, found in statistics.tensors.items()}
    problems = {node: value_problem(values, seen, least=0.0) for node, values in fitted.items()}
    plan = plan.with_float({node: why for node, why in problems.items() if why})
    weights = quantize_weights(graph, plan, data, config, moments=moments, threads=threads, progress=report)
    return Fitted(graph=graph, plan=plan, weights=weights, statistics=statistics)


def _add_batch(
    moments: SecondMoments, data: CalibrationData, feeds: Mapping[str, Array], values: Mapping[str, Array]
) -> None:
    moments.add(values, row_weights(data, feeds))
