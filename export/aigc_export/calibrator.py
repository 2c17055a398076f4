"""Calibration as a run of its own: PyTorch -> graph -> passes -> what the samples say about it, in a file."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from aigc_calibration.cache import write_calibration
from aigc_calibration.calibrate import CALIBRATED, Calibration, Progress, calibrate
from aigc_calibration.collect import Statistics
from aigc_calibration.emit import FORMS
from aigc_calibration.plan import TensorPlan, as_site_precision
from aigc_calibration.prepare import prepare
from aigc_calibration.quantise import plan_calibrated
from aigc_export.front import Stage, Teller, prepare_graph
from aigc_export.passes import PassReport
from aigc_export.recipes import ExportRecipe
from aigc_runtime.errors import ConfigError

__all__ = ["UNSTABLE", "CalibrationResult", "RangeStability", "calibrate_model", "instability_warning"]

UNSTABLE = 0.15
"""Ranges of the two halves of the samples that are further apart than this, relative to the range, are reported."""


@dataclass(frozen=True, kw_only=True)
class RangeStability:
    """How sure a range is.

    Attributes:
        name: of the value in the graph.
        amax: magnitude of its largest code.
        instability: how far the ranges of the two halves of the samples are apart, relative to `amax`.
    """

    name: str
    amax: float
    instability: float


@dataclass(frozen=True, kw_only=True)
class CalibrationResult:
    """What a calibration saw.

    Attributes:
        calibration: as it was written.
        samples: as they were asked for: a window of text is one, however many rows it is fed in.
        ranges: of what the plan would quantise, the least stable first.
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
    """Calibrate a model and write what was seen, for `ExportRecipe.calibration`.

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
    if recipe.quantisation is None or as_site_precision(recipe.precision) not in CALIBRATED:
        raise ConfigError(
            f"{recipe.precision} needs no ranges, so there is nothing to keep",
            hint=f"--precision is one of {', '.join(CALIBRATED)}",
        )
    if recipe.calibration is not None:
        raise ConfigError("calibrating from a calibration", hint="leave `calibration` out of the recipe")
    precision = as_site_precision(recipe.precision)
    tell = Teller(stage)
    model = prepare_graph(recipe, tell)
    assert model.data is not None
    graph = prepare(model.graph)
    found = calibrate(
        graph, model.data, recipe.quantisation, precision=precision, threads=recipe.threads, progress=progress
    )
    seen = found.statistics
    tell("calibrate", f"{model.data.samples} samples, {seen.batches} runs, {len(seen.tensors)} values")
    _, plan = plan_calibrated(graph, found, recipe.quantisation, precision=precision, form=FORMS[recipe.target])
    tell.warn(instability_warning(plan.tensors, seen))
    write_calibration(destination, found)
    tell("write", str(destination))
    return CalibrationResult(
        calibration=found,
        samples=model.data.samples,
        ranges=_least_stable(plan.tensors) or _extremes(seen),
        warnings=tuple(tell.warnings),
        passes=model.passes,
        seconds=time.perf_counter() - started,
    )


def instability_warning(ranges: Iterable[TensorPlan], seen: Statistics) -> str:
    """What to say about ranges that another draw of samples would change; empty if nothing is."""
    if not (least := _least_stable(ranges)):
        return ""
    if seen.batches < 2:
        return "all samples went through in one batch, so nothing tells how stable the ranges are: give more samples"
    loose = [r for r in least if r.instability > UNSTABLE]
    if not loose:
        return ""
    return (
        f"{len(loose)} of {len(least)} ranges change by more than {UNSTABLE:.0%} from one half of the samples to the "
        f"other, {loose[0].name!r} by {loose[0].instability:.0%}: give more samples"
    )


def _least_stable(ranges: Iterable[TensorPlan]) -> tuple[RangeStability, ...]:
    found = (RangeStability(name=t.name, amax=t.amax, instability=t.instability) for t in ranges)
    return tuple(sorted(found, key=lambda r: -r.instability))


def _extremes(seen: Statistics) -> tuple[RangeStability, ...]:
    """For 16-bit formats, whose plans hold no ranges: the largest magnitudes, which say whether a value fits."""
    found = []
    for name, tensor in seen.tensors.items():
        whole, (first, second) = tensor.histogram.amax, (half.amax for half in tensor.halves)
        instability = abs(first - second) / whole if whole else 0.0
        found.append(RangeStability(name=name, amax=whole, instability=instability))
    return tuple(sorted(found, key=lambda r: -r.instability))
