"""Export a model: PyTorch -> graph -> passes -> engine -> parity -> bundle. Nothing unproven is published."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aigc_calibration.coverage import Coverage
from aigc_calibration.onnx_file import to_proto
from aigc_calibration.quantize import Quantized
from aigc_export.graphs.capture import Captured
from aigc_export.graphs.passes import PassReport
from aigc_export.line.attempt import Attempt, Proof
from aigc_export.line.disk_space import check_space, engine_bytes
from aigc_export.line.engines import check_build, reference_program
from aigc_export.line.fallback import can_fall_back, fall_back
from aigc_export.line.origin import make_origin
from aigc_export.line.package import creation_time, make_bundle
from aigc_export.line.prompt_engine import Engines, choose_prompt_engine, first_attempt, with_whole_rows
from aigc_export.line.quality import QualityMeter, check_budgets
from aigc_export.line.quantization import calibration_facts, quantize_parts
from aigc_export.line.remedies import find_costly_modules, remedies
from aigc_export.line.searching import check_search, search_precisions
from aigc_export.line.signing import signature_warnings
from aigc_export.line.speed import Speed, check_speed
from aigc_export.line.text_vectors import record_vectors
from aigc_export.mixed_precision.report import SearchReport
from aigc_export.parity.bisect import Divergence, find_first_divergence
from aigc_export.parity.device_limits import as_measured
from aigc_export.parity.reference import Case, Generation, make_cases, make_generation
from aigc_export.prepare.prepare import PreparedModel, Reporter, Stage, load_program, prepare_parts
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.targets.base import EngineUnderTest
from aigc_export.workloads import Workload, get_workload
from aigc_models.caller_state import callers_state
from aigc_models.example_sizes import run_sizes
from aigc_models.program import Part, Program, example_feeds
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
        tried: what an export in 8 bits tried of itself, a sentence; empty where it tried nothing.
    """

    def __init__(
        self,
        report: ParityReport,
        divergence: Divergence | None,
        remedies: tuple[str, ...] = (),
        *,
        tried: str = "",
    ) -> None:
        shown = "\n".join(report.failures[:5])
        more = f"\n... and {len(report.failures) - 5} more" if len(report.failures) > 5 else ""
        found = f"\n{divergence}" if divergence is not None else "\nrun again with --bisect to find the first node"
        super().__init__(
            f"{report.name} for {report.target} in {report.precision} is not what PyTorch computes",
            hint="\n".join(
                (f"{shown}{more}{found}", *((tried,) if tried else ()), *_helpful(remedies), "nothing was published")
            ),
        )
        self.report = report
        self.divergence = divergence
        self.remedies = remedies
        self.tried = tried


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
        coverages: part -> what of it runs in low precision, and why the rest does not; empty for fp32.
        speed: beside fp32, of a quantized model whose engines run here; None for others, and where `auto` has timed.
        warnings: what did not stop it.
        seconds: of the whole line.
    """

    bundle: Bundle
    report: ParityReport
    passes: tuple[PassReport, ...]
    search: SearchReport | None
    coverages: Mapping[str, Coverage]
    speed: Speed | None
    warnings: tuple[str, ...]
    seconds: float

    @property
    def coverage(self) -> Coverage | None:
        """What runs in low precision in the only engine; None for fp32, and for a model of several parts."""
        return next(iter(self.coverages.values())) if len(self.coverages) == 1 else None


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
        SlowerError: a precision that was to save time takes longer than fp32; nothing is published.
        AigcError: any stage failed; nothing is published.
    """
    started = time.perf_counter()
    _LOG.debug("%s", recipe)
    reporter = Reporter(stage)
    check_destination(destination)
    check_build(recipe)
    creation_time()
    weights = _weights_bytes(recipe)
    check_space(destination, engine_bytes(weights, recipe.precision), graph_bytes=weights)
    for warning in signature_warnings(destination, sign):
        reporter.warn(warning)
    program = load_program(recipe)
    workload = get_workload(program.kind)
    check_search(recipe, program)
    vectors = record_vectors(program, reporter)
    references: list[tuple[tuple[Case, ...], Generation]] = []

    # A model that PyTorch cannot generate with is refused before the costly stages.
    prepared = prepare_parts(
        recipe,
        program,
        reporter,
        before_capture=lambda: references.append(_references(program, recipe, reporter)),
    )
    ((cases, generation),) = references
    recipe, engines, found = _low_precision(
        Engines(program=program, prepared=prepared, quantized={}, cases=cases), recipe, reporter, progress
    )

    def proof_of(engines: Engines) -> Proof:
        return Proof(
            program=engines.program,
            prepared=engines.prepared,
            recipe=recipe,
            cases=engines.cases,
            generation=generation,
            vectors=vectors,
            quality=QualityMeter(
                engines.program,
                recipe,
                prepared[0].evaluation,
                reporter,
                repeated=engines.otherwise is not None or can_fall_back(engines.quantized),
            ),
            reporter=reporter,
            progress=progress,
        )

    with temporary_folder("export") as folder, contextlib.ExitStack() as stack:
        engines, proof, first = first_attempt(engines, proof_of, folder / "attempt0")
        program, prepared, cases = engines.program, engines.prepared, engines.cases
        stack.callback(first.candidate.close)
        tried = fall_back(first, proof, folder)
        attempt = tried.attempt
        stack.callback(attempt.candidate.close)
        quantized, built, scores = dict(attempt.quantized), attempt.built, attempt.scores
        report, decided = attempt.report, attempt.decided
        recipe = replace(recipe, tolerances=decided.tolerances)
        if not report.passed:
            raise _failure(attempt, prepared, recipe, workload, bisect=bisect, tried=tried.sentence)
        check_budgets(recipe.budgets, scores, "the budget")
        worst = report.worst().errors
        reporter.report(
            "parity", f"max error {worst.max_over_rms:.1e} of the RMS, {worst.sqnr_db:.0f} dB, {_shown(report)}"
        )
        speed = None if found is not None else check_speed(attempt, proof, folder / "float")
        attempt.candidate.close()
        manifest, files = make_bundle(
            program,
            recipe,
            {name: engine.engine for name, engine in built.items()},
            cases=cases,
            generation=generation,
            quality=scores.quality,
            measured=as_measured(report),
            own_limits=decided.own,
            extra=_extra(program, quantized, found),
            provenance=_provenance(quantized, built),
            origin=make_origin(program, recipe, prepared[0].evaluation),
            vectors=vectors,
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
        passes=tuple(done for one in prepared for done in one.passes),
        search=found,
        coverages={name: one.coverage for name, one in quantized.items()},
        speed=speed,
        warnings=tuple(reporter.warnings),
        seconds=time.perf_counter() - started,
    )


def _low_precision(
    engines: Engines, recipe: ExportRecipe, reporter: Reporter, progress: Progress | None
) -> tuple[ExportRecipe, Engines, SearchReport | None]:
    """Quantize what a recipe says, or what a search finds: the recipe as it became, and how a search found it."""
    if recipe.search is not None:
        recipe, quantized, found = search_precisions(
            engines.prepared, recipe, recipe.search, reporter, cases=engines.cases, progress=progress
        )
        return recipe, replace(engines, quantized=quantized), found
    prepared = with_whole_rows(engines.prepared, recipe)
    engines = replace(engines, prepared=prepared, quantized=quantize_parts(prepared, recipe, reporter, progress))
    return recipe, choose_prompt_engine(engines, recipe, reporter, progress), None


def _failure(
    attempt: Attempt,
    prepared: Sequence[PreparedModel],
    recipe: ExportRecipe,
    workload: Workload,
    *,
    bisect: bool,
    tried: str,
) -> ParityFailedError:
    """Say what missed, and look in the engine whose outputs are worst for the cause."""
    report, quantized = attempt.report, attempt.quantized
    engine = report.worst().engine
    one = next((one for one in prepared if one.part.name == engine), prepared[0])
    name = one.part.name
    recipe = recipe.of_part(name)
    divergence = None
    if bisect:
        divergence = bisect_graph(to_proto(attempt.built[name].graph), one.captured, one.part, recipe)
    costly = find_costly_modules(one, quantized[name], report, recipe) if name in quantized and not tried else None
    helpful = remedies(report, recipe, workload=workload, costly=costly, divergence=divergence)
    return ParityFailedError(report, divergence, helpful, tried=tried)


def _provenance(quantized: Mapping[str, Quantized], built: Mapping[str, EngineUnderTest]) -> dict[str, str]:
    """Facts of every part; where there are several, each fact's name begins with that of its part."""
    facts: dict[str, str] = {}
    for name, engine in built.items():
        own = {**(calibration_facts(quantized[name]) if name in quantized else {}), **engine.provenance}
        facts |= own if len(built) == 1 else {f"{name}.{key}": value for key, value in own.items()}
    return facts


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
    sessions = reference_program(program, recipe)
    try:
        cases = make_cases(sessions, program, seed=recipe.seed)
        generation = make_generation(sessions, program, seed=recipe.seed)
    except FeedError as err:
        raise ConfigError(
            f"no engine of these profiles can be proven, since each must take a whole generation: {err.message}",
            hint="\n".join(filter(None, (err.hint, get_workload(program.kind).shapes_needed))),
        ) from err
    reporter.report("reference", f"{sum(len(c.steps) for c in cases)} steps in {len(cases)} cases, one generation")
    return cases, generation


def _extra(program: Program, quantized: Mapping[str, Quantized], found: SearchReport | None) -> dict[str, bytes]:
    extra = {plan_file(name, program.parts): one.plan.dump() for name, one in quantized.items()}
    return extra if found is None else {**extra, SEARCH_FILE: found.dump()}


def plan_file(part: str, parts: Collection[str]) -> str:
    """The name of a part's quantization plan in a bundle: `plan.json`, where there are several `plan.PART.json`."""
    return PLAN_FILE if len(parts) == 1 else f"plan.{part}.json"


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
