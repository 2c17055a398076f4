"""Suggest remedies where an export misses parity: the modules that make the error, and options.

A remedy is named only where an option exists for it. What keeping a module float brings is measured on calibration
samples, with all other sites in low precision, before it is said.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from aigc_calibration.onnx_function import opened_when_called
from aigc_calibration.plan import HALF_PRECISIONS
from aigc_calibration.quantize import Quantized
from aigc_calibration.search.probe import Probe, make_probe, measure_noise
from aigc_calibration.search.sensitivity import decibels
from aigc_calibration.search.toggle import toggle_graph
from aigc_export.parity.bisect import Divergence
from aigc_export.parity.missing import HALVED_DB
from aigc_export.prepare.prepare import PreparedModel
from aigc_export.recipes.accepting import accepting_budget
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.workloads import Workload, get_workload
from aigc_runtime.errors import AigcError
from aigc_runtime.proof.verify import ParityReport
from aigc_runtime.system.interrupts import check_interrupted

__all__ = ["CostlyModules", "find_costly_modules", "remedies"]

MAX_MODULES = 4
"""Modules that a remedy names; where more are needed, the error comes from all over."""
MARGIN_DB = 1.0
"""Beyond what is missing: it is measured on other samples than parity."""


@dataclass(frozen=True, kw_only=True)
class CostlyModules:
    """The modules that make most of the error.

    Attributes:
        modules: the costliest first.
        before_db: signal to noise of the outputs, all sites in low precision.
        after_db: the same with these modules float.
        suffices: whether it makes up for what is missing.
    """

    modules: tuple[str, ...]
    before_db: float
    after_db: float
    suffices: bool


def find_costly_modules(
    prepared: PreparedModel, quantized: Quantized, report: ParityReport, recipe: ExportRecipe
) -> CostlyModules | None:
    """Measure which modules make the error, each alone, and what keeping the costliest float brings.

    Args:
        prepared: the model and its calibration data.
        quantized: what missed parity.
        report: how.
        recipe: that it was made by.

    Returns:
        None where it cannot be measured: numbers of 16 bits, or a mix that a search has found.
    """
    graph, plan, low = quantized.float_graph, quantized.plan, quantized.plan.quantized()
    if graph is None or prepared.data is None or plan.precision in HALF_PRECISIONS or not low:
        return None
    try:
        batches = prepared.data.batches(opened_when_called(graph))
        feeds = list(itertools.islice(batches, get_workload(prepared.program.kind).probe_batches))
        toggled = toggle_graph(graph, plan, quantized.weights, recipe.target.format)
        probe = make_probe(toggled, [op.node for op in low], feeds, prepared.output_names)
    except AigcError:  # what cannot be measured is not said; that parity is missed stays the error
        return None
    nodes: dict[str, list[str]] = {}
    for op in low:
        nodes.setdefault(op.module, []).append(op.node)
    cost = {module: _noise(probe, held) for module, held in nodes.items() if module and "(" not in module}
    return _fewest(probe, nodes, cost, missing_db=_missing_db(report, recipe))


def _fewest(
    probe: Probe, nodes: Mapping[str, Sequence[str]], cost: Mapping[str, float], *, missing_db: float
) -> CostlyModules | None:
    """Keep the costliest modules float, one more at a time, until enough noise is gone."""
    before = after = decibels(_noise(probe, probe.nodes))
    kept: list[str] = []
    for module in sorted(cost, key=lambda m: (-cost[m], m))[:MAX_MODULES]:
        kept.append(module)
        kept_high = {node for name in kept for node in nodes[name]}
        after = decibels(_noise(probe, [node for node in probe.nodes if node not in kept_high]))
        if after - before >= missing_db + MARGIN_DB:
            break
    suffices = after - before >= missing_db + MARGIN_DB
    return CostlyModules(modules=tuple(kept), before_db=before, after_db=after, suffices=suffices) if kept else None


def _noise(probe: Probe, nodes: Sequence[str]) -> float:
    check_interrupted()
    return measure_noise(probe, nodes)


def _missing_db(report: ParityReport, recipe: ExportRecipe) -> float:
    """Compute by how many dB the outputs' noise must fall, at least."""
    limit = recipe.tolerances.tensor.min_sqnr_db
    worst = min((c.errors.sqnr_db for c in report.tensors), default=0.0)
    return HALVED_DB if limit is None or worst >= limit else limit - worst


def remedies(
    report: ParityReport,
    recipe: ExportRecipe,
    *,
    workload: Workload,
    costly: CostlyModules | None = None,
    divergence: Divergence | None = None,
) -> tuple[str, ...]:
    """List remedies, a line each, the likeliest first.

    Args:
        report: how parity is missed.
        recipe: what was exported.
        workload: of the kind of pipeline.
        costly: what was measured, if it was.
        divergence: what bisection found, if it was asked for.
    """
    return (
        *_keep_float(recipe, costly, divergence),
        *_better_rounding(recipe),
        *_other_precisions(recipe, workload),
        *_measured_quality(report, recipe, workload),
        *_wider_budgets(report, recipe, workload),
        *_looser_limits(report, recipe),
    )


def _keep_float(recipe: ExportRecipe, costly: CostlyModules | None, divergence: Divergence | None) -> Iterator[str]:
    if costly is not None:
        options = " ".join(f"--keep-float {shlex.quote(module)}" for module in costly.modules)
        gain = f"{costly.before_db:.0f} dB with them in {recipe.precision}, {costly.after_db:.0f} dB with them in float"
        if costly.suffices:
            yield f"{options}: most of the error comes from there ({gain}, on calibration samples)"
        elif costly.after_db - costly.before_db >= HALVED_DB:
            yield f"{options}: helps, and does not suffice alone ({gain}, on calibration samples)"
        else:
            yield f"the error comes from all over the model: {', '.join(costly.modules)} are the costliest ({gain})"
    elif recipe.precision in HALF_PRECISIONS and divergence is not None and divergence.module not in (None, "(root)"):
        yield f"--keep-float {shlex.quote(str(divergence.module))}: the first values that differ are computed there"


def _other_precisions(recipe: ExportRecipe, workload: Workload) -> Iterator[str]:
    """List the precisions whose own limits are stricter, since their arithmetic is more exact."""
    exactness = {p: limits.tensor.min_sqnr_db or 0.0 for p, limits in workload.tolerances.items()}
    here = exactness.get(recipe.run_precision, math.inf)
    better = [p for p in recipe.target.precisions if exactness.get(p, 0.0) > here]
    if better:
        yield f"--precision {' or '.join(sorted(better, key=exactness.__getitem__))}: more exact"


def _better_rounding(recipe: ExportRecipe) -> Iterator[str]:
    in_blocks = recipe.run_precision in ("int8-weight", "int4")
    if recipe.quantization is not None and in_blocks and recipe.quantization.method_for(recipe.site_precision) == "rtn":
        yield "--weight-method gptq: rounds weights by what they are multiplied with, which takes calibration data"


def _measured_quality(report: ParityReport, recipe: ExportRecipe, workload: Workload) -> Iterator[str]:
    if workload.quality_decides and recipe.precision != "fp32" and not report.paired:
        yield "--quality-samples 32: what is measured of the quality then decides, in place of limits on tensors"


def _wider_budgets(report: ParityReport, recipe: ExportRecipe, workload: Workload) -> Iterator[str]:
    """List the budgets under which the measured export would be published, where its quality decides."""
    measures = {measure.name: measure for measure in workload.measures}
    limited = [check for check in report.paired if check.limit is not None and check.metric.name in measures]
    if not workload.quality_decides or all(check.passed for check in limited):
        return
    stated = {budget.measure: budget.text for budget in recipe.budgets}
    words = []
    for check in limited:
        name, missed = check.metric.name, not check.passed
        if missed and (wide := accepting_budget(check.metric, measures[name])) is not None:
            words.append(wide)
        elif missed:
            return
        elif name in stated:
            words.append(stated[name])
    options = " ".join(f'--budget "{word}"' for word in words)
    yield f"{options}: if that is good enough for you; the manifest will say that you set it"


def _looser_limits(report: ParityReport, recipe: ExportRecipe) -> Iterator[str]:
    """List the limits under which the measured export would be published, where there are such."""
    limits, tensors = recipe.tolerances.limits(), report.tensors
    if not tensors or any(c.errors.problem for c in tensors):
        return
    generation = report.generation
    lowest = {
        "min_sqnr_db": math.floor(min(c.errors.sqnr_db for c in tensors)),
        "min_cosine": math.floor(min(c.errors.cosine for c in tensors) * 1e6) / 1e6,
        f"min_{generation.metric}": math.floor(generation.value * 100) / 100,
    }
    drops = [c.drop for c in report.quality if c.limit is not None]
    highest = {
        "max_over_rms": math.ceil(max(c.errors.max_over_rms for c in tensors) * 1e4) / 1e4,
        "max_quality_drop": math.ceil(max(drops, default=0.0) * 1e4) / 1e4,
    }
    missed = {
        name: value
        for name, value in {**lowest, **highest}.items()
        if (limit := limits.get(name)) is not None and (value < limit if name in lowest else value > limit)
    }
    if not missed or any(value <= 0 for value in missed.values()) or missed.get("max_over_rms", 0) >= 1:
        return
    options = " ".join(f"--tolerance {name}={value:g}" for name, value in missed.items())
    yield f"{options}: if that is good enough for you; the manifest will say that you set it"
