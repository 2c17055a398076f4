"""Search for a mix of precisions: measure every site alone, keep the costliest in high precision, run the mixes.

1. Measure the noise of every site alone, on the toggle graph, and its time in either precision, in the engine.
2. Order the sites: first those that low precision gains nothing for, then the others by noise per gain.
3. Find the smallest number of sites in high precision whose mix keeps the budget: each try is emitted, run, and
   evaluated beside PyTorch through the whole sampling loop.
4. Time every try in turn with the plain precisions. The result is the best that keeps the budget; a mix that is not
   faster than a plain precision is not chosen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aigc_calibration.calibrate import CALIBRATED, Calibration, calibrate
from aigc_calibration.collect import Statistics
from aigc_calibration.coverage import site_macs
from aigc_calibration.onnx_function import opened_when_called
from aigc_calibration.prepare import prepare
from aigc_calibration.quantize import NO_SAMPLES
from aigc_calibration.search.journal import JOURNAL_FILE, Journal, measuring_environment
from aigc_calibration.search.sensitivity import Sensitivity
from aigc_calibration.search.workers import make_workers
from aigc_export.mixed_precision.candidates import Built, CandidateEvaluator, evaluation_key
from aigc_export.mixed_precision.mixes import Mixes
from aigc_export.mixed_precision.outcome import unkept, write_report
from aigc_export.mixed_precision.pairs import plan_pair, without_exceptions
from aigc_export.mixed_precision.plain import plain_builds
from aigc_export.mixed_precision.report import CandidateReport, SearchReport, pareto_front
from aigc_export.mixed_precision.sites import measure_pair
from aigc_export.prepare.prepare import PreparedModel, Stage
from aigc_export.recipes.budget import holds, shown
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.recipes.search import SearchConfig
from aigc_export.targets.base import check_precision
from aigc_export.workloads import get_workload
from aigc_export.workloads.base import Precisions
from aigc_export.workloads.evaluate import make_evaluator
from aigc_models.evaluation.paired import Scores
from aigc_models.torch_session import open_torch
from aigc_runtime.core.progress import Progress

__all__ = ["MIN_GAIN", "SearchResult", "search"]

MIN_GAIN = 1.03
"""How many times faster a mix must be than a plain precision; less is within the noise of timing."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The result of a search.

    Attributes:
        built: the chosen engine.
        report: how it was found.
        statistics: of the samples that the low precisions were planned from; `NO_SAMPLES` where none were needed.
    """

    built: Built
    report: SearchReport
    statistics: Statistics


def search(
    prepared: PreparedModel,
    recipe: ExportRecipe,
    config: SearchConfig,
    stage: Stage,
    *,
    calibration: Calibration | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Search for the best mix that keeps the budget.

    Args:
        prepared: the float graph and its data.
        recipe: of the export.
        config: budget and objective.
        stage: called after every stage.
        calibration: of an earlier run.
        progress: called after every batch of calibration.

    Raises:
        BudgetError: no candidate keeps the budget; says which came nearest.
        ConfigError: a target whose engine cannot run here, or a budget on what is not measured.
        AigcError: any stage failed.
    """
    started = time.perf_counter()
    check_precision(recipe.target, "auto")
    journal = Journal(
        None if config.folder is None else config.folder / JOURNAL_FILE,
        environment=f"{recipe.target.name}, {measuring_environment()}",
    )
    program, graph, quantization = prepared.program, prepared.graph, prepared.quantization
    workload = get_workload(program.kind)
    samples = config.samples_for(workload, program.parameters)
    assert prepared.data is not None
    assert quantization is not None
    evaluator = CandidateEvaluator(
        prepared,
        recipe,
        lambda: make_evaluator(
            workload,
            open_torch(program),
            program.settings,
            evaluation=prepared.evaluation,
            samples=samples,
            seed=recipe.seed,
            roles=program.engines,
        ),
        key=evaluation_key(program, prepared.evaluation, samples=samples, seed=recipe.seed),
        journal=journal,
    )
    float_built = Built(name="fp32", precision="fp32", base="fp32", graph=graph)
    tried: list[tuple[Built, Scores]] = [(float_built, evaluator.evaluate(float_built))]
    if not holds(config.budgets, tried[0][1]):
        raise unkept("fp32", config.budgets, tried[0][1], workload)
    stage("budget", f"fp32: {shown(config.budgets, tried[0][1])}")
    pairs: dict[str, tuple[Sensitivity, ...]] = {}
    workers = make_workers(jobs=config.jobs, dask=config.dask)
    ready, every, threads = prepare(graph), without_exceptions(quantization), recipe.threads
    wanted = workload.searched_pairs(config.objective, recipe.target.format)
    statistics = NO_SAMPLES
    if any(low in CALIBRATED for low, _ in wanted):
        if calibration is None:
            calibration = calibrate(ready, prepared.data, every, precision="int8", threads=threads, progress=progress)
        statistics = calibration.statistics
        stage("calibrate", f"{statistics.samples} samples, {len(statistics.tensors)} values")
    tried += [
        (built, evaluator.evaluate(built))
        for built in plain_builds(prepared, recipe, calibration, objective=config.objective)
    ]
    for precisions in wanted:
        if _is_needless(precisions, tried, config):
            stage("sensitivity", f"{' / '.join(precisions)}: none needed, all in {precisions[0]} keeps the budget")
            continue
        pair = plan_pair(
            ready,
            prepared.data,
            every,
            precisions,
            recipe.target.format,
            calibration,
            outputs=prepared.output_names,
            threads=threads,
        )
        if pair.statistics is not None and not statistics.batches:
            statistics = pair.statistics
            stage("calibrate", f"{statistics.samples} samples")
        sites = measure_pair(pair, prepared, workers, evaluator, journal)
        pairs[pair.name] = sites
        noisiest = sites[0]
        stage(
            "sensitivity",
            f"{pair.name}: {len(sites)} sites, noisiest {noisiest.module or noisiest.node} {noisiest.sqnr_db:.1f} dB",
        )
        run = opened_when_called(pair.graph, threads=recipe.threads)
        macs = site_macs(pair.graph, next(prepared.data.batches(run)))
        known = {built.digest for built, _ in tried}
        found = Mixes(pair, sites, macs, config, evaluator, recipe.target.executed, stage).descend()
        tried += [(built, scores) for built, scores in found if built.digest not in known]
    timed = evaluator.time([built for built, _ in tried])
    sizes = [evaluator.size_bytes(built) for built, _ in tried]
    chosen, verdict = _choose(tried, timed, sizes, config)
    stage("search", verdict)
    built = tried[chosen][0]
    report = SearchReport(
        model=recipe.name,
        target=recipe.target.name,
        objective=config.objective,
        budgets=config.budgets,
        verdict=verdict,
        candidates=_reports(tried, timed, sizes, chosen, config),
        pairs=pairs,
        kept=_kept(built, pairs),
        evaluated=evaluator.evaluated,
        reused=journal.reused,
        seconds=round(time.perf_counter() - started, 3),
    )
    if config.folder is not None:
        write_report(report, config.folder, stage)
    return SearchResult(built=built, report=report, statistics=statistics)


def _is_needless(precisions: Precisions, tried: Sequence[tuple[Built, Scores]], config: SearchConfig) -> bool:
    """Whether a pair is passed over: with float, where weights alone in the low precision keep the budget.

    Products in blocks read fewer bytes, and are taken to be faster than float ones. Activations in 8 bits may be slower
    than float ones, so that a mix of them is looked for.
    """
    low, high = precisions
    kept = {built.precision for built, scores in tried if holds(config.budgets, scores)}
    return high == "float" and low not in CALIBRATED and low in kept


def _choose(
    tried: Sequence[tuple[Built, Scores]],
    timed: Sequence[tuple[float, float]],
    sizes: Sequence[int],
    config: SearchConfig,
) -> tuple[int, str]:
    """Choose the result: its index, and the reason."""
    costs: dict[str, Callable[[int], float]] = {
        "latency": lambda i: 1 / timed[i][1],
        "size": lambda i: float(sizes[i]),
        "ops": lambda i: float("inf") if tried[i][0].plan is None else float(tried[i][0].kept_high),
    }
    cost, first = costs[config.objective], config.budgets[0]

    def loss(i: int) -> float:
        return first.value(tried[i][1]) if first.upper else -first.value(tried[i][1])

    able = [i for i, (_, scores) in enumerate(tried) if holds(config.budgets, scores)]
    best = min(able, key=lambda i: (cost(i), tried[i][0].name))
    plain = [i for i in able if tried[i][0].precision != "mixed"]
    least = min(cost(i) for i in plain)
    # Of those that are as fast, the one that loses least: which is the fastest of them is chance.
    near = [i for i in plain if cost(i) <= (MIN_GAIN if config.objective == "latency" else 1) * least]
    best_plain = min(near, key=lambda i: (loss(i), cost(i), tried[i][0].name))
    if best in near:
        best = best_plain
    name, quality = tried[best][0].name, shown(config.budgets, tried[best][1])
    if best in plain:
        if all(built.precision != "mixed" for built, _ in tried):
            return best, f"{name} keeps the budget, so that no mix is needed: {quality}"
        if len(able) == len(plain):
            return best, f"{name}: no mix keeps the budget, which {name} does: {quality}"
        return best, f"{name}: no mix that keeps the budget is better in {config.objective} than {name}: {quality}"
    other = tried[best_plain][0].name
    if config.objective == "latency":
        ratio = timed[best][1] / timed[best_plain][1]
        if ratio < MIN_GAIN:
            why = f"the best mix ({name}) is {ratio:.2f}x as fast as {other}, which is no gain"
            return best_plain, f"{other}: {why}"
        return best, f"{name}: {ratio:.2f}x as fast as {other}, the best plain precision, with {quality}"
    return best, f"{name}: better in {config.objective} than {other}, the best plain precision, with {quality}"


def _reports(
    tried: Sequence[tuple[Built, Scores]],
    timed: Sequence[tuple[float, float]],
    sizes: Sequence[int],
    chosen: int,
    config: SearchConfig,
) -> tuple[CandidateReport, ...]:
    first = config.budgets[0]
    sign = 1.0 if first.upper else -1.0
    points = [
        (sign * first.value(scores), ms, float(size))
        for (_, scores), (ms, _), size in zip(tried, timed, sizes, strict=True)
    ]
    reports = [
        CandidateReport(
            name=built.name,
            precision=built.precision,
            counts={} if built.plan is None else built.plan.counts(),
            scores=scores,
            value=first.value(scores),
            holds=holds(config.budgets, scores),
            latency_ms=ms,
            speedup=ratio,
            size_bytes=size,
            pareto=front,
            chosen=i == chosen,
        )
        for i, ((built, scores), (ms, ratio), size, front) in enumerate(
            zip(tried, timed, sizes, pareto_front(points), strict=True)
        )
    ]
    return tuple(sorted(reports, key=lambda r: (r.latency_ms, r.name)))


def _kept(built: Built, pairs: Mapping[str, tuple[Sensitivity, ...]]) -> dict[str, str]:
    """Map the sites of the result in higher precision to the reason."""
    if built.plan is None:
        noise = {s.module or s.node: s for sites in pairs.values() for s in sites}
        return {
            name: f"nothing in lower precision was chosen; it alone would make {s.share:.1%} of all noise "
            f"({s.sqnr_db:.1f} dB)"
            for name, s in noise.items()
        }
    return {
        f"{op.module} ({op.op_type} {op.node})" if op.module else f"{op.op_type} {op.node}": op.why
        for op in built.plan.ops
        if op.precision != built.plan.precision
    }
