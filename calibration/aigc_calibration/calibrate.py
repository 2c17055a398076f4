"""Calibrate: run a float graph over data once, and keep the statistics that a plan needs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from aigc_calibration.choose_equalization import STRENGTHS, choose_equalization
from aigc_calibration.choose_rotation import TRIED, choose_rotation
from aigc_calibration.collect import Statistics, collect
from aigc_calibration.config import QuantConfig
from aigc_calibration.data import CalibrationData, row_weights
from aigc_calibration.digest import graph_digest
from aigc_calibration.equalize import channel_groups, equalize
from aigc_calibration.errors import CalibrationError
from aigc_calibration.few_samples import FewSamples
from aigc_calibration.fit_codes import moments_for
from aigc_calibration.hessian import SampledMoments
from aigc_calibration.loud_rows import LoudRows, loud_rows
from aigc_calibration.plan import HALF_PRECISIONS, SitePrecision
from aigc_calibration.planner import watched
from aigc_calibration.ranges import Method
from aigc_calibration.residual_streams import residual_streams
from aigc_calibration.rotate import rotate
from aigc_calibration.sites import find_sites
from aigc_calibration.smooth import Source, smooth, smoothable
from aigc_calibration.split import split_skips
from aigc_calibration.weights import QuantizedWeight
from aigc_runtime.core.progress import Progress, phase
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["CALIBRATED", "Calibration", "calibrate", "check_kind", "fits_samples", "needs_samples", "smoothed"]

_LOG = logging.getLogger(__name__)

CALIBRATED: tuple[SitePrecision, ...] = ("fp16", "bf16", "int8", "fp8")
"""Precisions that need ranges."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The statistics of a graph over calibration data.

    Attributes:
        graph_sha256: digest of the prepared graph, before it is rotated, split, equalized and smoothed.
        rotated: whether residual streams are rotated.
        split_skips: whether sites behind a concatenation are split, one for each branch.
        smoothing: strength of SmoothQuant by where it is folded to; empty for none.
        equalization: strength of the equalization of channels of results; 0 for none.
        channels: value -> [C] float32, largest magnitude of every channel among the first samples, of what is
            smoothed or equalized.
        statistics: of the graph after all four.
        half_precision: whether results of all sites were watched too, as 16-bit formats need, and of all values the
            largest magnitudes alone.
        methods: value -> the method of its range, where it was chosen by what it does to the outputs; empty if not.
        choice: a sentence on how.
        float_sites: that stay float for what they do to the outputs, where that was measured; None if it was not.
        float_choice: a sentence on them; empty where there are none.
        moments: of what weights are multiplied with, so that codes can be fitted; None where none are, or they were.
        codes: weights that were fitted, by name; empty where none were, or none are yet.
        loud: rows of the data that choices are judged on, too; None where there are none, or choices were made.
    """

    graph_sha256: str
    rotated: bool
    split_skips: bool
    smoothing: Mapping[Source, float]
    equalization: float
    channels: Mapping[str, Array]
    statistics: Statistics
    half_precision: bool
    methods: Mapping[str, Method] = field(default_factory=dict)
    choice: str = ""
    float_sites: tuple[str, ...] | None = None
    float_choice: str = ""
    moments: SampledMoments | None = field(default=None, compare=False, repr=False)
    codes: Mapping[str, QuantizedWeight] = field(default_factory=dict, compare=False, repr=False)
    loud: LoudRows | None = field(default=None, compare=False, repr=False)


def needs_samples(config: QuantConfig, precision: SitePrecision) -> bool:
    """Check whether anything is learned from samples: rounding weights alone to the nearest codes needs none."""
    return fits_samples(config, precision) or config.smooths_gains(precision)


def fits_samples(config: QuantConfig, precision: SitePrecision) -> bool:
    """Check whether codes or ranges are fitted to samples, which takes many."""
    return precision in CALIBRATED or config.method_for(precision) != "rtn"


def calibrate(
    graph: ir.Model,
    data: CalibrationData,
    config: QuantConfig,
    *,
    precision: SitePrecision,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Run a prepared graph over its data.

    Args:
        graph: of `prepare`.
        data: batches for every input.
        config: says what is split, equalized and smoothed.
        precision: one of `CALIBRATED`.
        threads: of the engine.
        progress: called after every batch, with the rows that were read and all rows.

    Raises:
        CalibrationError: the data cannot be used.
        CancelledError: `progress` returned False.
    """
    half_precision = precision in HALF_PRECISIONS
    smoothing = {} if half_precision else dict(config.smooth)
    # fp8 has as many digits for quiet channels as for loud ones. While the strength is not chosen, any makes channels
    # watched.
    equalization = 0.0 if precision != "int8" else 1.0 if config.equalize is None else config.equalize
    rotated = _is_rotated(graph, data, config, precision=precision, threads=threads, progress=progress)
    base, _ = rotate(graph) if rotated else (graph, 0)
    base, parts = (base, 0) if half_precision or not config.split_skips else split_skips(base)
    channels: dict[str, Array] = {}
    if watch := _channels(base, smoothing, equalization):
        few = FewSamples(data)
        report = phase(progress, "channels", few.rows)
        seen = collect(base, few, (), channels=watch, threads=threads, progress=report).tensors
        channels = {name: t.channel_amax for name, t in seen.items() if t.channel_amax is not None}
    leave = _smoothed_values(base, smoothing)
    if config.equalize is None and equalization and channel_groups(base, leave):
        report = phase(progress, "choice of equalization", len(STRENGTHS))
        equalization = choose_equalization(base, channels, data, config, leave=leave, threads=threads, progress=report)
    channels = {name: channels[name] for name in _channels(base, smoothing, equalization)}
    made, equalized, smoothed_groups = _scaled(base, channels, smoothing, equalization)
    _LOG.debug("%d sites are split, %d results equalized, %d groups smoothed", parts, equalized, smoothed_groups)
    report = phase(progress, "ranges", data.rows)
    wanted = _wanted(made, half_precision, attention=config.attention)
    moments = None
    if not half_precision and config.method_for(precision) != "rtn":
        moments = moments_for(made, config, samples=data.rows)
    loud = None if half_precision else loud_rows(made, data)
    statistics = collect(
        made,
        data,
        wanted,
        magnitudes=half_precision,
        observe=partial(_add_batch, data, wanted, moments, loud),
        threads=threads,
        progress=report,
    )
    _LOG.info("%d rows for %s: ranges of %d values", statistics.samples, precision, len(statistics.tensors))
    return Calibration(
        graph_sha256=graph_digest(graph),
        rotated=rotated,
        split_skips=parts > 0,
        smoothing=smoothing if smoothed_groups else {},
        equalization=equalization,
        channels=channels,
        statistics=statistics,
        half_precision=half_precision,
        moments=moments,
        loud=loud,
    )


def _is_rotated(
    graph: ir.Model,
    data: CalibrationData,
    config: QuantConfig,
    *,
    precision: SitePrecision,
    threads: int | None,
    progress: Progress | None,
) -> bool:
    """Whether streams are rotated: fp8 has as many digits for quiet channels as for loud ones."""
    if precision != "int8" or config.rotate is False or not residual_streams(graph):
        return False
    if config.rotate:
        return True
    report = phase(progress, "choice of rotation", TRIED)
    return choose_rotation(graph, data, config, threads=threads, progress=report)


def _add_batch(
    data: CalibrationData,
    wanted: Collection[str],
    moments: SampledMoments | None,
    loud: LoudRows | None,
    feeds: Mapping[str, Array],
    values: Mapping[str, Array],
) -> None:
    if moments is not None:
        moments.add(values, len(next(iter(feeds.values()))), row_weights(data, feeds))
    if loud is not None:
        loud.add(feeds, {name: values[name] for name in wanted})


def _smoothed_values(base: ir.Model, smoothing: Mapping[Source, float]) -> dict[str, int]:
    """The values that are smoothed, with the axis of their channels."""
    return {g.value: g.channel_axis for g in smoothable(base) if g.source in smoothing}


def _channels(base: ir.Model, smoothing: Mapping[Source, float], equalization: float) -> dict[str, int]:
    """The values whose channels are watched, with the axis of their channels."""
    found = _smoothed_values(base, smoothing)
    if equalization:
        equal = channel_groups(base, leave=found)
        found.update({name: g.channel_axis for g in equal for name in g.watched})
    return found


def _channel_counts(base: ir.Model, names: Collection[str]) -> dict[str, int]:
    """How many channels each of these values has."""
    sites = [s for s in find_sites(base) if s.weight is not None]
    counts = {s.activations[0]: s.shape[s.input_axis] for s in sites}
    counts.update({s.output: s.shape[s.channel_axis] for s in sites})
    return {name: counts[name] for name in names}


def _scaled(
    base: ir.Model, channels: Mapping[str, Array], smoothing: Mapping[Source, float], equalization: float
) -> tuple[ir.Model, int, int]:
    """The graph with its channels scaled, the results that were equalized, and the values that were smoothed."""
    values = _smoothed_values(base, smoothing)
    made, equalized = equalize(base, channels, equalization, leave=values) if equalization else (base, 0)
    return (smooth(made, channels, smoothing) if values else made), equalized, len(values)


def _wanted(graph: ir.Model, half_precision: bool, *, attention: bool) -> set[str]:
    """List the values whose statistics a plan needs."""
    if half_precision:
        return {n for s in find_sites(graph) for n in (*s.activations, s.output)}
    return watched(graph, attention=attention)


def check_kind(calibration: Calibration, precision: SitePrecision) -> None:
    """Check that a calibration was made for precisions of the same kind: 16 bits, or 8.

    Raises:
        CalibrationError: it was made for the other kind.
    """
    if precision not in CALIBRATED or calibration.half_precision != (precision in HALF_PRECISIONS):
        raise CalibrationError(
            f"the calibration was not made for {precision}",
            hint=f"run `aigc-export calibrate` with --precision {precision}",
        )


def smoothed(graph: ir.Model, calibration: Calibration, *, attention: bool = False) -> tuple[ir.Model, tuple[str, ...]]:
    """Rotate, split and smooth a graph as its calibration did; returns it and a sentence for each transform.

    Args:
        graph: that was calibrated.
        calibration: of it.
        attention: whether products of two activations are to be planned, too.

    Raises:
        CalibrationError: the calibration is that of another graph, or lacks some of its values.
    """
    if graph_digest(graph) != calibration.graph_sha256:
        raise CalibrationError(
            "the calibration belongs to another graph: the model, its weights or the passes have changed",
            hint="run `aigc-export calibrate` again",
        )
    base, streams = rotate(graph) if calibration.rotated else (graph, 0)
    base, parts = split_skips(base) if calibration.split_skips else (base, 0)
    found = {name: len(array) for name, array in calibration.channels.items()}
    if found != _channel_counts(base, _channels(base, calibration.smoothing, calibration.equalization)):
        raise _incomplete("its channels are not those of the graph")
    made, equalized, count = _scaled(base, calibration.channels, calibration.smoothing, calibration.equalization)
    rotated = f"{streams} residual stream{'s' if streams > 1 else ''} rotated"
    transforms: tuple[str, ...] = (rotated,) if streams else ()
    if parts:
        transforms += (f"{parts} sites split by the branches of a concatenation",)
    if equalized:
        transforms += (f"channels of {equalized} results equalized, strength {calibration.equalization:g}",)
    if count:
        strengths = dict(sorted(calibration.smoothing.items()))
        transforms += (f"SmoothQuant on {count} values, {strengths}",)
    if missing := sorted(
        _wanted(made, calibration.half_precision, attention=attention) - calibration.statistics.tensors.keys()
    ):
        raise _incomplete(f"it has no statistics of {missing[0]!r}")
    return made, transforms


def _incomplete(why: str) -> CalibrationError:
    return CalibrationError(f"the calibration is incomplete: {why}", hint="run `aigc-export calibrate` again")
