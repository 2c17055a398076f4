"""A calibration on disk: one `.npz` of plain arrays and a JSON header, nothing pickled.

A run that finds the same graph takes its ranges from here; for any other graph the cache is refused.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aigc_calibration.calibrate import Calibration
from aigc_calibration.collect import Statistics, TensorStatistics
from aigc_calibration.errors import CalibrationError
from aigc_calibration.histogram import HALF_BINS, Histogram
from aigc_calibration.smooth import Source
from aigc_runtime.publish import atomic_write_bytes
from aigc_runtime.settings import from_json, to_json
from aigc_runtime.strict_json import loads_strict
from aigc_runtime.tensors import Array

__all__ = ["read_calibration", "write_calibration"]

CACHE_VERSION = 1
_HEADER = "header"
_COUNTS = "counts"
_CHANNELS = "channels"


@dataclass(frozen=True, kw_only=True)
class _Half:
    """A histogram without its counts; `low` and `high` are None where nothing was counted."""

    width: float
    low: float | None
    high: float | None
    count: int
    zeros: int
    huge: int


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    name: str
    halves: tuple[_Half, ...]


@dataclass(frozen=True, kw_only=True)
class _Header:
    version: int
    graph_sha256: str
    halves: bool
    smoothing: dict[Source, float]
    samples: int
    batches: int
    samples_sha256: str
    tensors: tuple[_Tensor, ...]
    channels: tuple[str, ...]


def write_calibration(path: Path | str, calibration: Calibration) -> None:
    """Write a cache; a reader sees the old file or the new one.

    Raises:
        OutputError: it cannot be written.
    """
    found = calibration.statistics
    names = sorted(found.tensors)
    header = _Header(
        version=CACHE_VERSION,
        graph_sha256=calibration.graph_sha256,
        halves=calibration.halves,
        smoothing=dict(calibration.smoothing),
        samples=found.samples,
        batches=found.batches,
        samples_sha256=found.samples_sha256,
        tensors=tuple(_Tensor(name=n, halves=tuple(_half(h) for h in found.tensors[n].halves)) for n in names),
        channels=tuple(calibration.channels),
    )
    arrays: dict[str, Array] = {_HEADER: np.frombuffer(json.dumps(to_json(header)).encode(), dtype=np.uint8)}
    counts = [[h.counts for h in found.tensors[n].halves] for n in names]
    arrays[_COUNTS] = np.array(counts, dtype=np.int64).reshape(len(names), 2, 2 * HALF_BINS)
    for index, amax in enumerate(calibration.channels.values()):
        arrays[f"{_CHANNELS}.{index}"] = amax
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    atomic_write_bytes(path, buffer.getvalue())


def _half(histogram: Histogram) -> _Half:
    seen = bool(histogram.count)
    return _Half(
        width=histogram.width,
        low=histogram.low if seen else None,
        high=histogram.high if seen else None,
        count=histogram.count,
        zeros=histogram.zeros,
        huge=histogram.huge,
    )


def read_calibration(path: Path | str) -> Calibration:
    """Read a cache; whether it is that of a graph is checked where it is used (`calibrate.smoothed`).

    Raises:
        CalibrationError: no cache, a damaged one, or one of another version.
    """
    what = f"the calibration cache {str(path)!r}"
    hint = "write it with `aigc-export calibrate`"
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name]) for name in archive.files}
    except OSError as err:
        raise CalibrationError(f"cannot read {what}: {err.strerror or err}", hint=hint) from err
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, MemoryError) as err:
        raise CalibrationError(f"{what} is damaged: {err}", hint=hint) from err
    if _HEADER not in arrays or _COUNTS not in arrays:
        raise CalibrationError(f"{what} is no calibration cache", hint=hint)
    value = loads_strict(arrays[_HEADER].tobytes(), what=what)
    if not isinstance(value, dict) or value.get("version") != CACHE_VERSION:
        raise CalibrationError(f"{what} has another version than {CACHE_VERSION}", hint=hint)
    header = from_json(_Header, value, error=CalibrationError)
    counts = arrays[_COUNTS]
    channels = {name: arrays.get(f"{_CHANNELS}.{i}") for i, name in enumerate(header.channels)}
    if (
        counts.shape != (len(header.tensors), 2, 2 * HALF_BINS)
        or counts.dtype != np.int64
        or (counts < 0).any()
        or any(len(t.halves) != 2 for t in header.tensors)
        or any(c is None or c.ndim != 1 or c.dtype != np.float32 for c in channels.values())
    ):
        raise CalibrationError(f"{what} is damaged: its arrays are not those of its header", hint=hint)
    tensors = {
        t.name: TensorStatistics(halves=(_histogram(t.halves[0], rows[0]), _histogram(t.halves[1], rows[1])))
        for t, rows in zip(header.tensors, counts, strict=True)
    }
    return Calibration(
        graph_sha256=header.graph_sha256,
        smoothing=header.smoothing,
        channels={name: c for name, c in channels.items() if c is not None},
        statistics=Statistics(
            tensors=tensors, samples=header.samples, batches=header.batches, samples_sha256=header.samples_sha256
        ),
        halves=header.halves,
    )


def _histogram(half: _Half, counts: Array) -> Histogram:
    made = Histogram(counts=counts.copy(), width=half.width, count=half.count, zeros=half.zeros, huge=half.huge)
    if half.low is not None and half.high is not None:
        made.low, made.high = half.low, half.high
    return made
