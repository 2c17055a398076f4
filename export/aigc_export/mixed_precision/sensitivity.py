"""Measure sensitivity by itself: PyTorch -> graph -> calibration -> what every site costs and gains."""

from __future__ import annotations

import time
from dataclasses import dataclass

from aigc_calibration.calibrate import CALIBRATED, calibrate
from aigc_calibration.prepare import prepare
from aigc_calibration.search.journal import JOURNAL_FILE, Journal, measuring_environment
from aigc_calibration.search.sensitivity import Sensitivity
from aigc_calibration.search.workers import make_workers
from aigc_export.mixed_precision.candidates import CandidateEvaluator
from aigc_export.mixed_precision.pairs import plan_pair, without_exceptions
from aigc_export.mixed_precision.sites import measure_pair
from aigc_export.prepare.prepare import Reporter, Stage, prepare_graph
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.recipes.search import SearchConfig
from aigc_export.workloads import get_workload
from aigc_runtime.core.progress import Progress
from aigc_runtime.errors import ConfigError, UnknownNameError

__all__ = ["SensitivityReport", "measure_sensitivity"]


@dataclass(frozen=True, kw_only=True)
class SensitivityReport:
    """The sites of one pair of precisions.

    Attributes:
        model: its name.
        target: of the engine.
        pair: the pair, such as `int8 / float`.
        sites: the noisiest first.
        total_db: signal to noise with all of them in low precision, by the additive model.
        seconds: of everything.
    """

    model: str
    target: str
    pair: str
    sites: tuple[Sensitivity, ...]
    total_db: float
    seconds: float


def measure_sensitivity(
    recipe: ExportRecipe,
    *,
    low: str | None = None,
    stage: Stage | None = None,
    progress: Progress | None = None,
) -> SensitivityReport:
    """Measure every site of a model.

    Args:
        recipe: of precision `auto`.
        low: the low precision of the pair; None takes the kind's first.
        stage: called after every stage.
        progress: called while samples are read, and after every site.

    Raises:
        UnknownNameError: no pair with that low precision.
        ConfigError: a recipe without a search.
        AigcError: a stage failed.
    """
    from aigc_calibration.search.sensitivity import decibels

    started = time.perf_counter()
    config: SearchConfig | None = recipe.search
    if config is None or recipe.quantization is None:
        raise ConfigError("sensitivity of a plain precision", hint="make the recipe with precision='auto'")
    reporter = Reporter(stage)
    prepared = prepare_graph(recipe, reporter)
    assert prepared.data is not None
    assert prepared.quantization is not None
    workload = get_workload(prepared.program.kind)
    known = {precisions[0]: precisions for precisions in workload.searched_pairs("size", recipe.target.format)}
    run_as = None if low is None else workload.run_as(low, recipe.target.format)
    requested = next(iter(known)) if run_as is None else {"int4": "int4-weight"}.get(run_as, run_as)
    precisions = next((both for name, both in known.items() if name == requested), None)
    if precisions is None:
        raise UnknownNameError("low precision", str(low), known)
    ready, every = prepare(prepared.graph), without_exceptions(prepared.quantization)
    calibration = prepared.calibration
    if calibration is None and precisions[0] in CALIBRATED:
        calibration = calibrate(
            ready, prepared.data, every, precision="int8", threads=recipe.threads, progress=progress
        )
    pair = plan_pair(
        ready,
        prepared.data,
        every,
        precisions,
        recipe.target.format,
        calibration,
        outputs=prepared.output_names,
        threads=recipe.threads,
    )
    seen = pair.statistics
    reporter.report("calibrate", "no samples were needed" if seen is None else f"{seen.samples} samples")
    journal = Journal(
        None if config.folder is None else config.folder / JOURNAL_FILE,
        environment=f"{recipe.target.name}, {measuring_environment()}",
    )
    evaluator = CandidateEvaluator(prepared, recipe, None, key="", journal=journal)
    workers = make_workers(jobs=config.jobs, dask=config.dask)
    sites = measure_pair(pair, prepared, workers, evaluator, journal, progress=progress)
    reporter.report("sensitivity", f"{pair.name}: {len(sites)} sites")
    return SensitivityReport(
        model=recipe.name,
        target=recipe.target.name,
        pair=pair.name,
        sites=sites,
        total_db=decibels(sum(s.noise for s in sites)),
        seconds=round(time.perf_counter() - started, 3),
    )
