"""Calibrate: run a float graph over data once, and keep the statistics that a plan needs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aigc_calibration.collect import Statistics, collect
from aigc_calibration.config import QuantConfig
from aigc_calibration.data import CalibrationData
from aigc_calibration.digest import graph_digest
from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_function import OnnxFunction
from aigc_calibration.plan import HALF_PRECISIONS, SitePrecision
from aigc_calibration.planner import watched
from aigc_calibration.ranges import Method
from aigc_calibration.sites import find_sites
from aigc_calibration.smooth import Source, smooth, smoothable
from aigc_calibration.split import split_skips
from aigc_runtime.core.progress import Progress, phase
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["CALIBRATED", "Calibration", "calibrate", "check_kind", "needs_samples", "smoothed"]

_LOG = logging.getLogger(__name__)

CALIBRATED: tuple[SitePrecision, ...] = ("fp16", "bf16", "int8", "fp8")
"""Precisions that need ranges."""
CHANNEL_SHARE, FEWEST_FOR_CHANNELS = 4, 32
"""The magnitudes of channels are taken of a quarter of the samples, and of so many at least."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The statistics of a graph over calibration data.

    Attributes:
        graph_sha256: digest of the prepared graph, before it is split and smoothed.
        split_skips: whether sites behind a concatenation are split, one for each branch.
        smoothing: strength of SmoothQuant by where it is folded to; empty for none.
        channels: value -> [C] float32, largest magnitude of every channel among the first samples, of what is
            smoothed.
        statistics: of the graph after both.
        half_precision: whether results of all sites were watched too, as 16-bit formats need, and of all values the
            largest magnitudes alone.
        methods: value -> the method of its range, where it was chosen by what it does to the outputs; empty if not.
        choice: a sentence on how.
    """

    graph_sha256: str
    split_skips: bool
    smoothing: Mapping[Source, float]
    channels: Mapping[str, Array]
    statistics: Statistics
    half_precision: bool
    methods: Mapping[str, Method] = field(default_factory=dict)
    choice: str = ""


def needs_samples(config: QuantConfig, precision: SitePrecision) -> bool:
    """Check whether anything is learned from samples: rounding weights alone to the nearest codes needs none."""
    return precision in CALIBRATED or config.weight_method != "rtn"


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
        config: says what is split and smoothed.
        precision: one of `CALIBRATED`.
        threads: of the engine.
        progress: called after every batch, with the rows that were read and all rows.

    Raises:
        CalibrationError: the data cannot be used.
        CancelledError: `progress` returned False.
    """
    half_precision = precision in HALF_PRECISIONS
    smoothing = {} if half_precision else dict(config.smooth)
    base, parts = (graph, 0) if half_precision or not config.split_skips else split_skips(graph)
    groups = [g for g in smoothable(base) if g.source in smoothing]
    channels: dict[str, Array] = {}
    for axis in sorted({g.channel_axis for g in groups}):
        names = [g.value for g in groups if g.channel_axis == axis]
        few = _Few(data)
        report = phase(progress, "channels", few.rows)
        seen = collect(base, few, (), channels=names, channel_axis=axis, threads=threads, progress=report)
        channels.update({name: t.channel_amax for name, t in seen.tensors.items() if t.channel_amax is not None})
    made = smooth(base, channels, smoothing) if channels else base
    _LOG.debug("%d sites are split, %d of %d groups smoothed by %s", parts, len(channels), len(groups), smoothing)
    report = phase(progress, "ranges", data.rows)
    wanted = _wanted(made, half_precision, attention=config.attention)
    statistics = collect(made, data, wanted, magnitudes=half_precision, threads=threads, progress=report)
    _LOG.info("%d rows for %s: ranges of %d values", statistics.samples, precision, len(statistics.tensors))
    return Calibration(
        graph_sha256=graph_digest(graph),
        split_skips=parts > 0,
        smoothing=smoothing if channels else {},
        channels=channels,
        statistics=statistics,
        half_precision=half_precision,
    )


@dataclass(frozen=True)
class _Few:
    """The first samples, for the magnitudes of channels; all of them where they come in an order of the user's.

    Attributes:
        data: all samples.
    """

    data: CalibrationData

    @property
    def samples(self) -> int:
        """Number of samples: a part of all, but not too few, and no part of rows in a file's order."""
        if getattr(self.data, "in_order", False):
            return self.data.samples
        return min(self.data.samples, max(FEWEST_FOR_CHANNELS, self.data.samples // CHANNEL_SHARE))

    @property
    def rows(self) -> int:
        """Number of rows of these samples."""
        return self.data.rows * self.samples // max(self.data.samples, 1)

    def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        """Yield whole batches until there are so many rows."""
        rows = 0
        for feeds in self.data.batches(run):
            yield feeds
            rows += len(next(iter(feeds.values())))
            if rows >= self.rows:
                return


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
    """Split and smooth a graph as its calibration did; returns it and a sentence for each transform.

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
    base, parts = split_skips(graph) if calibration.split_skips else (graph, 0)
    groups = {g.value: g for g in smoothable(base) if g.source in calibration.smoothing}
    found = {name: array.shape for name, array in calibration.channels.items()}
    made = base
    transforms: tuple[str, ...] = (f"{parts} sites split by the branches of a concatenation",) if parts else ()
    if found != {name: (g.sites[0].shape[g.sites[0].input_axis],) for name, g in groups.items()}:
        raise _incomplete("its channels are not those of the graph")
    if found:
        strengths = dict(sorted(calibration.smoothing.items()))
        made = smooth(base, calibration.channels, calibration.smoothing)
        transforms += (f"SmoothQuant on {len(found)} values, {strengths}",)
    if missing := sorted(
        _wanted(made, calibration.half_precision, attention=attention) - calibration.statistics.tensors.keys()
    ):
        raise _incomplete(f"it has no statistics of {missing[0]!r}")
    return made, transforms


def _incomplete(why: str) -> CalibrationError:
    return CalibrationError(f"the calibration is incomplete: {why}", hint="run `aigc-export calibrate` again")
