"""Calibrate by itself: PyTorch -> graph -> passes -> a file with the statistics of the samples."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from aigc_calibration.cache import write_calibration
from aigc_calibration.calibrate import CALIBRATED, Calibration, calibrate
from aigc_calibration.calibrated_plan import plan_chosen, with_choice
from aigc_calibration.prepare import prepare
from aigc_export.graphs.passes import PassReport
from aigc_export.prepare.calibration_data import described
from aigc_export.prepare.prepare import Reporter, Stage, prepare_graph
from aigc_export.prepare.stability import RangeStability, instability_warning, stability
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.recipes.requested import readers
from aigc_export.workloads import get_workload
from aigc_models.sources import kind_of
from aigc_runtime.core.progress import Progress
from aigc_runtime.errors import ConfigError

__all__ = ["CalibrationResult", "calibrate_model"]


@dataclass(frozen=True, kw_only=True)
class CalibrationResult:
    """The result of a calibration.

    Attributes:
        calibration: as it was written.
        samples: as they were asked for: a window of text is one, however many rows it is fed in.
        ranges: what the plan goes by, the least stable first.
        warnings: what to know before it is used.
        passes: what each pass did to the graph.
        seconds: of everything.
    """

    calibration: Calibration
    samples: int
    ranges: tuple[RangeStability, ...]
    warnings: tuple[str, ...]
    passes: tuple[PassReport, ...]
    seconds: float


def calibrate_model(
    recipe: ExportRecipe,
    destination: Path | str,
    *,
    stage: Stage | None = None,
    progress: Progress | None = None,
) -> CalibrationResult:
    """Calibrate a model and write the statistics, for `ExportRecipe.calibration`.

    Args:
        recipe: what to calibrate, for which target and precision; its limits are not used.
        destination: the file to write.
        stage: called after every stage.
        progress: called after every batch.

    Raises:
        ConfigError: a precision that needs no ranges.
        CalibrationError: data that cannot be used.
        AigcError: a stage failed; nothing is written.
    """
    started = time.perf_counter()
    if recipe.search is not None:
        raise ConfigError("a search reads a calibration for int8", hint="calibrate with --precision int8")
    if recipe.quantization is None or recipe.site_precision not in CALIBRATED:
        takers = readers(CALIBRATED, get_workload(kind_of(recipe.model)), recipe.target)
        raise ConfigError(
            f"{recipe.precision} needs no ranges, so there is nothing to keep",
            hint=f"--precision is one of {', '.join(one for one in takers if one != 'auto')}",
        )
    if recipe.calibration is not None:
        raise ConfigError(
            "a calibration is not an input of a calibration", hint="leave `calibration` out of the recipe"
        )
    precision = recipe.site_precision
    reporter = Reporter(stage)
    model = prepare_graph(recipe, reporter)
    data, config = model.data, model.quantization
    assert data is not None
    assert config is not None
    graph = prepare(model.graph)
    found = calibrate(graph, data, config, precision=precision, threads=recipe.threads, progress=progress)
    seen = found.statistics
    reporter.report("calibrate", f"{described(data)}, {seen.batches} runs, {len(seen.tensors)} values")
    _, plan, weights = plan_chosen(
        graph,
        data,
        found,
        config,
        precision=precision,
        form=recipe.target.format,
        outputs=model.output_names,
        threads=recipe.threads,
        progress=progress,
    )
    found = with_choice(found, plan, weights)
    for note in plan.notes:
        reporter.report("choose", note)
    reporter.warn(instability_warning(plan, seen, config))
    write_calibration(destination, found)
    reporter.report("write", str(destination))
    return CalibrationResult(
        calibration=found,
        samples=data.samples,
        ranges=stability(plan, seen),
        warnings=tuple(reporter.warnings),
        passes=model.passes,
        seconds=time.perf_counter() - started,
    )
