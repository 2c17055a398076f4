"""Run a float graph over calibration data and watch the values that will be quantized.

Only one batch of values is held at a time: memory does not grow with the number of samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.data import CalibrationData
from aigc_calibration.errors import CalibrationError
from aigc_calibration.histogram import Histogram
from aigc_calibration.magnitudes import reduced
from aigc_calibration.onnx_function import OnnxFunction, open_watched
from aigc_calibration.parallel import in_threads
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Statistics", "TensorStatistics", "collect"]

MOST_COUNTED = 2**20
"""Numbers of a value in one batch beyond which a part of them is counted."""


@dataclass(kw_only=True)
class TensorStatistics:
    """Statistics of one value.

    Attributes:
        splits: histograms of every other sample, so that the two can be compared with each other; a value that does
            not depend on the samples is in both. Empty where only channels were asked for.
        channel_amax: [C] float32, largest magnitude per channel, where it was asked for.
    """

    splits: tuple[Histogram, Histogram] = field(default_factory=lambda: (Histogram(), Histogram()))
    channel_amax: Array | None = None

    @property
    def histogram(self) -> Histogram:
        """Histogram of all samples."""
        whole = Histogram()
        for half in self.splits:
            whole.merge(half)
        return whole

    def watch_channels(self, values: Array, axis: int) -> None:
        """Add magnitudes per channel."""
        axis %= values.ndim
        folded = values.reshape(int(np.prod(values.shape[:axis])), values.shape[axis], -1)
        amax = np.maximum(folded.max(axis=2), -folded.min(axis=2)).max(axis=0)
        self.channel_amax = amax if self.channel_amax is None else np.maximum(self.channel_amax, amax)


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of a calibration run.

    Attributes:
        tensors: by name of the value.
        samples: rows of the batch dimension, over all batches.
        batches: runs of the graph.
        samples_sha256: of every array fed, in order.
    """

    tensors: dict[str, TensorStatistics]
    samples: int
    batches: int
    samples_sha256: str


def collect(
    model: ir.Model,
    data: CalibrationData,
    tensors: Collection[str],
    *,
    channels: Mapping[str, int] = MappingProxyType({}),
    magnitudes: bool = False,
    every: int = 1,
    progress: Callable[[int], None] | None = None,
    observe: Callable[[Mapping[str, Array], Mapping[str, Array]], None] | None = None,
    threads: int | None = None,
) -> Statistics:
    """Watch `tensors` while the graph runs over `data`.

    Args:
        model: the float graph.
        data: what to run it on.
        tensors: names of values whose numbers are counted.
        channels: values whose largest magnitudes are wanted, and the axis where their channels lie.
        magnitudes: watch the largest magnitude of each row alone, as a value of its own: fast, and in little memory.
            Nothing is known then of channels.
        every: of the numbers of a value, count every so manyth, or fewer where they are more than `MOST_COUNTED`; the
            least and the largest are of all.
        progress: called after every batch with the number of samples seen.
        observe: called with every batch and the values of the graph on it, both by name.
        threads: of the engine.

    Raises:
        CalibrationError: no data, or a value that is NaN.
        EngineError: the graph does not load or run.
    """
    counted = set(tensors)
    wanted = sorted(counted | set(channels))
    run, watch = _opened(model, wanted, threads, magnitudes=magnitudes)
    found = {name: TensorStatistics() for name in wanted}
    digest = hashlib.sha256()
    samples = batches = first = 0
    steps = max(data.rows // max(data.samples, 1), 1)

    def add(values: Mapping[str, Array], rows: int, first: int, name: str) -> None:
        value = values[name]
        if np.isnan(value).any():
            raise CalibrationError(
                f"value {name!r} of the graph is NaN in batch {batches}",
                hint="the float model itself fails on this sample: check the calibration data and the checkpoint",
            )
        if name in counted:
            for half, part in zip(found[name].splits, _split(value, rows, first), strict=True):
                half.update(part, every=_step(value.size, every))
        if name in channels:
            found[name].watch_channels(value, channels[name])

    for feeds in data.batches(run):
        for name in sorted(feeds):
            digest.update(f"{name}:{feeds[name].dtype}:{feeds[name].shape}".encode())
            digest.update(np.ascontiguousarray(feeds[name]).tobytes())
        values = watch(feeds)
        rows = len(next(iter(feeds.values())))
        in_threads(partial(add, values, rows, first), wanted, threads)
        if observe is not None:
            observe(feeds, values)
        del values  # before the next run makes as many
        batches += 1
        samples += rows
        first += rows if batches % steps == 0 else 0
        if progress is not None:
            progress(samples)
    if not batches:
        raise CalibrationError("there are no calibration samples", hint="ask for one or more")
    return Statistics(tensors=found, samples=samples, batches=batches, samples_sha256=digest.hexdigest())


def _step(size: int, every: int) -> int:
    """Which part of so many numbers is counted: a prime that divides no usual width, so that each channel has its turn.

    >>> [_step(size, every) for size, every in ((1000, 1), (2**20, 3), (2**21, 1), (2**25, 13))]
    [1, 3, 7, 37]
    """
    least = -(-size // MOST_COUNTED)
    if least <= every:
        return every
    step = max(7, least)
    while any(step % divisor == 0 for divisor in range(2, int(step**0.5) + 1)):
        step += 1
    return step


def _opened(
    model: ir.Model, wanted: list[str], threads: int | None, *, magnitudes: bool
) -> tuple[OnnxFunction, OnnxFunction]:
    """A graph as a function of its outputs, and as one of what is watched."""
    if not magnitudes or not wanted:
        return open_watched(model, wanted, threads=threads)
    found = reduced(model, wanted)
    run, watch = open_watched(found.model, found.watched, threads=threads)
    return run, lambda feeds: found.magnitudes(watch(feeds))


def _split(value: Array, rows: int, first: int) -> tuple[Array, Array]:
    """Split a value by samples in even and in odd places; `first` is the place of the batch's first row.

    A value whose first axis is not the batch's, or a multiple of it, does not depend on the samples.
    """
    if value.ndim == 0 or len(value) % rows:
        return value, value
    by_row = value.reshape(rows, -1)
    return by_row[first % 2 :: 2], by_row[1 - first % 2 :: 2]
