"""Export a model: PyTorch -> graph -> passes -> engine -> parity -> bundle. Nothing unproven is published."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aigc_calibration.coverage import Coverage
from aigc_calibration.onnx_file import to_proto
from aigc_calibration.plan import as_site_precision
from aigc_calibration.quantize import Quantized, quantize
from aigc_export.graphs.capture import Captured, run_sizes
from aigc_export.graphs.passes import PassReport
from aigc_export.line.disk_space import check_space, engine_bytes
from aigc_export.line.engines import check_build, reference_session
from aigc_export.line.origin import make_origin
from aigc_export.line.package import creation_time, make_bundle
from aigc_export.line.remedies import find_costly_modules, remedies
from aigc_export.line.signing import signature_warnings
from aigc_export.parity.bisect import Divergence, find_first_divergence
from aigc_export.parity.check import check_parity
from aigc_export.parity.reference import Case, Generation, make_cases, make_generation
from aigc_export.prepare.calibration_data import described
from aigc_export.prepare.prepare import PreparedModel, Reporter, Stage, prepare_graph
from aigc_export.prepare.request import build_engine
from aigc_export.prepare.stability import instability_warning
from aigc_export.recipes.budget import holds, shown
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.recipes.search import SearchConfig
from aigc_export.recipes.tolerances import loosened, with_user_limits
from aigc_export.search.report import SearchReport
from aigc_export.search.search import BudgetError, search
from aigc_export.workloads import get_workload
from aigc_export.workloads.evaluate import make_evaluator
from aigc_models.caller_state import callers_state
from aigc_models.evaluation.paired import Scores
from aigc_models.program import Part, Program, example_feeds
from aigc_models.torch_session import TorchSession
from aigc_models.weights.checkpoint import shipped_checkpoint
from aigc_models.weights.stored_weights import StoredWeights
from aigc_models.weights.weights_file import find_weights
from aigc_runtime.bundle.bundle import Bundle, Sign, check_destination, load_bundle, write_bundle
from aigc_runtime.core.progress import Progress
from aigc_runtime.errors import AigcError, ConfigError, FeedError, ParityError
from aigc_runtime.proof.verify import ParityReport
from aigc_runtime.system.interrupts import check_interrupted
from aigc_runtime.system.temporary_folder import temporary_folder

if TYPE_CHECKING:
    import onnx

__all__ = ["ExportResult", "ParityFailedError", "Stage", "bisect_graph", "export_model"]

_LOG = logging.getLogger(__name__)

PLAN_FILE = "plan.json"
"""The quantization plan's name in a bundle."""
SEARCH_FILE = "search.json"
"""The name of the report of a search in a bundle."""


class ParityFailedError(ParityError):
    """The engine misses a tolerance.

    Attributes:
        report: every check.
        divergence: what bisection found, if it was asked for.
        remedies: what could help, a line each.
    """

    def __init__(self, report: ParityReport, divergence: Divergence | None, remedies: tuple[str, ...] = ()) -> None:
        shown = "\n".join(report.failures[:5])
        more = f"\n... and {len(report.failures) - 5} more" if len(report.failures) > 5 else ""
        found = f"\n{divergence}" if divergence is not None else "\nrun again with --bisect to find the first node"
        super().__init__(
            f"{report.name} for {report.target} in {report.precision} is not what PyTorch computes",
            hint="\n".join((f"{shown}{more}{found}", *_helpful(remedies), "nothing was published")),
        )
        self.report = report
        self.divergence = divergence
        self.remedies = remedies


def _helpful(remedies: tuple[str, ...]) -> list[str]:
    return ["what could help:", *(f"- {line}" for line in remedies)] if remedies else []


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The result of an export.

    Attributes:
        bundle: the published bundle.
        report: its parity with PyTorch.
        passes: what each pass did.
        search: how `auto` found its mix; None for other precisions.
        coverage: what runs in low precision, and why the rest does not; None for fp32.
        warnings: what did not stop it.
        seconds: of the whole line.
    """

    bundle: Bundle
    report: ParityReport
    passes: tuple[PassReport, ...]
    search: SearchReport | None
    coverage: Coverage | None
    warnings: tuple[str, ...]
    seconds: float


@callers_state()
def export_model(
    recipe: ExportRecipe,
    destination: Path | str,
    *,
    bisect: bool = False,
    stage: Stage | None = None,
    progress: Progress | None = None,
    sign: Sign | None = None,
) -> ExportResult:
    """Export a model and publish its bundle.

    Args:
        recipe: what to export, and under which limits.
        destination: the bundle's folder; an old bundle there is replaced in one step, and only at the end.
        bisect: bisect the graph if parity is missed.
        stage: called after every stage.
        progress: called after every batch of calibration, and after every step of an engine's compilation.
        sign: signs the manifest, such as `signing.load_signer(key)`; the bundle appears signed. None: unsigned.

    Raises:
        ParityFailedError: a tolerance is missed; nothing is published.
        AigcError: any stage failed; nothing is published.
    """
    started = time.perf_counter()
    _LOG.debug("%s", recipe)
    reporter = Reporter(stage)
    check_destination(destination)
    check_build(recipe)
    creation_time()
    check_space(destination, engine_bytes(_weights_bytes(recipe), recipe.precision))
    for warning in signature_warnings(destination, sign):
        reporter.warn(warning)
    references: list[tuple[tuple[Case, ...], Generation]] = []

    # A model that PyTorch cannot generate with is refused before the costly stages.
    prepared = prepare_graph(
        recipe, reporter, before_capture=lambda program: references.append(_references(program, recipe, reporter))
    )
    program, graph = prepared.program, prepared.graph
    workload = get_workload(program.kind)
    ((cases, generation),) = references
    quantized: Quantized | None = None
    found: SearchReport | None = None
    if recipe.search is not None:
        recipe, quantized, found = _search(prepared, recipe, recipe.search, reporter, progress)
    elif prepared.data is not None:
        quantized = _quantize(prepared, recipe, reporter, progress)
    if quantized is not None:
        graph = quantized.graph
    with temporary_folder("export") as folder, contextlib.ExitStack() as stack:
        plan = None if quantized is None else quantized.plan
        built = build_engine(prepared, graph, plan, recipe, folder, progress=progress)
        engine, candidate = built.engine, stack.enter_context(built.candidate)
        reporter.report("build", f"{engine.kind}, {engine.size_bytes / 1e6:.2f} MB{built.summary}")
        evaluate = make_evaluator(
            workload,
            TorchSession(program.part),
            program.settings,
            evaluation=prepared.evaluation,
            samples=recipe.quality_samples,
            seed=recipe.seed,
        )
        scores = evaluate(built.unbounded)
        if recipe.search is not None:
            _check_budget(recipe.search, scores)
        report = check_parity(
            candidate,
            program,
            name=recipe.name,
            target=recipe.target.name,
            precision=recipe.precision,
            cases=cases,
            generation=generation,
            scores=scores,
            tolerances=recipe.tolerances,
        )
        if not report.passed:
            divergence = None
            if bisect:
                divergence = bisect_graph(to_proto(built.graph), prepared.captured, program.part, recipe)
            costly = None if quantized is None else find_costly_modules(prepared, quantized, report, recipe)
            helpful = remedies(report, recipe, workload=workload, costly=costly, divergence=divergence)
            raise ParityFailedError(report, divergence, helpful)
        worst = report.worst().errors
        reporter.report(
            "parity", f"max error {worst.max_over_rms:.1e} of the RMS, {worst.sqnr_db:.0f} dB, {_shown(report)}"
        )
        candidate.close()
        manifest, files = make_bundle(
            program,
            recipe,
            engine,
            cases=cases,
            generation=generation,
            quality=scores.quality,
            extra=_extra(quantized, found),
            provenance={**({} if quantized is None else _calibration_facts(quantized)), **built.provenance},
            origin=make_origin(program, recipe, prepared.evaluation),
        )
        check_interrupted()
        write_bundle(destination, manifest, files, sign=sign)
    # Whom this machine trusts does not matter here: the bundle was made a moment ago.
    bundle = load_bundle(destination)
    signed = ", signed" if bundle.has_signature else ""
    reporter.report("publish", f"{bundle.path}, manifest {bundle.manifest_sha256[:12]}{signed}")
    return ExportResult(
        bundle=bundle,
        report=report,
        passes=prepared.passes,
        search=found,
        coverage=None if quantized is None else quantized.coverage,
        warnings=tuple(reporter.warnings),
        seconds=time.perf_counter() - started,
    )


def _weights_bytes(recipe: ExportRecipe) -> int:
    """Size of the weights in 32 bits; 0 where it is not found, which loading reports."""
    if not isinstance(recipe.model, str):
        return sum(
            tensor.nbytes for part in recipe.model.parts.values() for tensor in part.module.state_dict().values()
        )
    try:
        folder = shipped_checkpoint(recipe.model) if recipe.checkpoint is None else recipe.checkpoint
        return StoredWeights(find_weights(folder).weights).float32_bytes
    except (AigcError, OSError):
        return 0


def _references(program: Program, recipe: ExportRecipe, reporter: Reporter) -> tuple[tuple[Case, ...], Generation]:
    """Compute the reference cases with PyTorch, within the engine's shapes, before the costly stages."""
    session = reference_session(program, recipe)
    try:
        cases = make_cases(session, program, seed=recipe.seed)
        generation = make_generation(session, program, seed=recipe.seed)
    except FeedError as err:
        raise ConfigError(
            f"no engine of these profiles can be proven, since each must take a whole generation: {err.message}",
            hint=f"{err.hint}\na language model needs a profile for prompts beside one for single tokens",
        ) from err
    reporter.report("reference", f"{sum(len(c.steps) for c in cases)} steps in {len(cases)} cases, one generation")
    return cases, generation


def _search(
    prepared: PreparedModel, recipe: ExportRecipe, config: SearchConfig, reporter: Reporter, progress: Progress | None
) -> tuple[ExportRecipe, Quantized | None, SearchReport]:
    """Search, and make the recipe of the result: its precision, and the limits of the lowest precision in it."""
    found = search(prepared, recipe, config, reporter.report, calibration=prepared.calibration, progress=progress)
    built = found.built
    workload = get_workload(prepared.program.kind)
    limits = loosened(workload.limits(built.base), config.budgets)
    limits = with_user_limits(limits, recipe.tolerance, workload)
    recipe = replace(recipe, precision=built.precision, tolerances=limits)
    if built.plan is None or built.coverage is None:
        return recipe, None, found.report
    quantized = Quantized(
        graph=built.graph, plan=built.plan, statistics=found.calibration.statistics, coverage=built.coverage
    )
    assert prepared.quantization is not None
    reporter.warn(instability_warning(built.plan, found.calibration.statistics, prepared.quantization))
    _report_quantized(quantized, reporter.report)
    return recipe, quantized, found.report


SHOWN_SITES = 3
"""Names of sites in a line that says why they stay float."""


def _report_quantized(quantized: Quantized, stage: Stage) -> None:
    """Report the number of sites of each precision, then a line for each reason why sites stay float."""
    counts = ", ".join(f"{n} {precision}" for precision, n in sorted(quantized.plan.counts().items()))
    stage("quantize", f"{counts}; {quantized.coverage}")
    for why, sites in quantized.coverage.reasons().items():
        _LOG.debug("left float, %s: %s", why, ", ".join(sites))
        more = f" and {len(sites) - SHOWN_SITES} more" if len(sites) > SHOWN_SITES else ""
        stage("left float", f"{', '.join(sites[:SHOWN_SITES])}{more}: {why}")


def _check_budget(config: SearchConfig, scores: Scores) -> None:
    """The engine that is published must keep the budget too, wherever quality was measured on it."""
    if scores != Scores() and not holds(config.budgets, scores):
        raise BudgetError(
            f"the engine misses the budget that the search had met: {shown(config.budgets, scores)}",
            hint="the search evaluated other samples: ask for more --quality-samples; nothing was published",
        )


def _extra(quantized: Quantized | None, found: SearchReport | None) -> dict[str, bytes]:
    extra = {} if quantized is None else {PLAN_FILE: quantized.plan.dump()}
    return extra if found is None else {**extra, SEARCH_FILE: found.dump()}


def _quantize(model: PreparedModel, recipe: ExportRecipe, reporter: Reporter, progress: Progress | None) -> Quantized:
    assert model.quantization is not None
    assert model.data is not None
    found = quantize(
        model.graph,
        model.data,
        model.quantization,
        precision=as_site_precision(recipe.precision),
        form=recipe.target.format,
        executed=recipe.target.executed,
        calibration=model.calibration,
        threads=recipe.threads,
        progress=progress,
    )
    seen = found.statistics
    if model.calibration is None:
        reporter.report("calibrate", f"{described(model.data)}, {seen.batches} runs, {len(seen.tensors)} values")
    else:
        reporter.report("calibrate", f"{recipe.calibration}: {seen.samples} rows, {len(seen.tensors)} values")
    reporter.warn(instability_warning(found.plan, seen, model.quantization))
    _report_quantized(found, reporter.report)
    return found


def _calibration_facts(quantized: Quantized) -> dict[str, str]:
    return {
        "calibration_samples": str(quantized.statistics.samples),
        "calibration_samples_sha256": quantized.statistics.samples_sha256,
        "float_graph_sha256": quantized.plan.graph_sha256,
        "low_precision": str(quantized.coverage),
    }


def _shown(report: ParityReport) -> str:
    parts = [f"{report.generation.metric} {report.generation.value:.4g}"]
    parts += [f"{c.metric.name} {c.metric.value:.4g}" for c in report.paired]
    parts += [f"{c.metric} {c.reference:.4g} -> {c.actual:.4g}" for c in report.quality]
    return ", ".join(parts)


def bisect_graph(proto: onnx.ModelProto, captured: Captured, part: Part, recipe: ExportRecipe) -> Divergence:
    """Bisect a graph against the program that it was captured from."""
    return find_first_divergence(
        proto,
        captured.program,
        example_feeds(part, run_sizes(part)[0], seed=recipe.seed),
        output_names=part.interface.graph_outputs,
        tolerance=recipe.tolerances.tensor,
    )
