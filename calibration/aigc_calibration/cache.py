"""Keep a calibration on disk: a zip of plain .npy arrays (an `.npz`) with a JSON header among them, nothing pickled.

A run that finds the same graph takes its ranges from here; for any other graph the cache is refused. The same
calibration always makes the same bytes.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import typing
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aigc_calibration.calibrate import Calibration
from aigc_calibration.collect import Statistics, TensorStatistics
from aigc_calibration.errors import CalibrationError
from aigc_calibration.grids import GRIDS, GridName
from aigc_calibration.histogram import HALF_BINS, HUGE, Histogram
from aigc_calibration.ranges import METHODS, Method
from aigc_calibration.smooth import Source
from aigc_calibration.weights import QuantizedWeight, stored_codes
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import BundleError
from aigc_runtime.io.jsonable import from_json, to_json
from aigc_runtime.io.npy import read_npy, write_npy
from aigc_runtime.io.publish import atomic_write_bytes
from aigc_runtime.io.strict_json import loads_strict
from aigc_runtime.io.user_file import open_plain

__all__ = ["CACHE_VERSION", "read_calibration", "write_calibration"]

CACHE_VERSION = 6
MAX_CACHE_BYTES = 2**31
"""Of all arrays, unpacked: room for the histograms of 8,000 values and the codes of a billion weights."""
_HEADER = "header"
_COUNTS = "counts"
_CHANNELS = "channels"
_CODES, _SCALES = "codes", "scales"
_HINT = "write it with `aigc-export calibrate`"
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class _Half:
    """A histogram without its counts; `low` and `high` are None where nothing was counted."""

    width: float
    low: float | None
    high: float | None
    count: int
    zeros: int
    huge: int

    def __post_init__(self) -> None:
        low, high = self.low, self.high
        bounded = low is None or high is None or -HUGE < low <= high < HUGE
        seen = (low is not None, high is not None) == (bool(self.count), bool(self.count))
        power = self.width == 0 or (self.width > 0 and math.frexp(self.width)[0] == 0.5)
        if not (bounded and seen and power) or self.huge < 0 or not 0 <= self.zeros <= self.count:
            raise CalibrationError(f"invalid histogram: {self}")

    def counts(self, counts: Array) -> bool:
        """Check that `counts` are the counts of this histogram."""
        total = float(counts.sum(dtype=np.float64))  # of float64, so that no sum of integers can wrap around
        return bool((counts >= 0).all()) and total == self.count - self.zeros and (self.width > 0 or total == 0)


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    name: str
    splits: tuple[_Half, ...]


@dataclass(frozen=True, kw_only=True)
class _Weight:
    """A weight that was fitted to the samples, without its codes and scales."""

    name: str
    axis: int
    grid: GridName


@dataclass(frozen=True, kw_only=True)
class _Header:
    version: int
    graph_sha256: str
    half_precision: bool
    rotated: bool
    split_skips: bool
    smoothing: dict[Source, float]
    equalization: float
    samples: int
    batches: int
    samples_sha256: str
    tensors: tuple[_Tensor, ...]
    channels: tuple[str, ...]
    methods: dict[str, Method]
    choice: str
    float_sites: tuple[str, ...] | None
    float_choice: str
    weights: tuple[_Weight, ...]

    def __post_init__(self) -> None:
        if not self.smoothing.keys() <= set(typing.get_args(Source)):
            raise CalibrationError(f"smoothing is {self.smoothing}", hint=f"valid: {typing.get_args(Source)}")
        if not all(0 <= strength <= 1 for strength in self.smoothing.values()):
            raise CalibrationError(f"smoothing is {self.smoothing}", hint="strengths lie between 0 and 1")
        if not 0 <= self.equalization <= 1:
            raise CalibrationError(f"equalization is {self.equalization}", hint="strengths lie between 0 and 1")
        known = {tensor.name for tensor in self.tensors}
        if not self.methods.keys() <= known or not set(self.methods.values()) <= METHODS.keys():
            raise CalibrationError(
                "it names methods that there are not, or of values that it does not hold", hint=_HINT
            )
        if self.samples < 1 or self.batches < 1:
            raise CalibrationError(f"there are {self.samples} samples in {self.batches} batches")


def write_calibration(path: Path | str, calibration: Calibration) -> None:
    """Write a calibration file; a reader sees the old file or the new one.

    Raises:
        OutputError: it cannot be written.
    """
    found = calibration.statistics
    names = sorted(found.tensors)
    header = _Header(
        version=CACHE_VERSION,
        graph_sha256=calibration.graph_sha256,
        half_precision=calibration.half_precision,
        rotated=calibration.rotated,
        split_skips=calibration.split_skips,
        smoothing=dict(calibration.smoothing),
        equalization=calibration.equalization,
        samples=found.samples,
        batches=found.batches,
        samples_sha256=found.samples_sha256,
        tensors=tuple(_Tensor(name=n, splits=tuple(_half(h) for h in found.tensors[n].splits)) for n in names),
        channels=tuple(calibration.channels),
        methods=dict(sorted(calibration.methods.items())),
        choice=calibration.choice,
        float_sites=calibration.float_sites,
        float_choice=calibration.float_choice,
        weights=tuple(_Weight(name=w.name, axis=w.axis, grid=w.grid.name) for w in calibration.codes.values()),
    )
    arrays: dict[str, Array] = {_HEADER: np.frombuffer(json.dumps(to_json(header)).encode(), dtype=np.uint8)}
    counts = [[h.counts for h in found.tensors[n].splits] for n in names]
    arrays[_COUNTS] = np.array(counts, dtype=np.int64).reshape(len(names), 2, 2 * HALF_BINS)
    for index, amax in enumerate(calibration.channels.values()):
        arrays[f"{_CHANNELS}.{index}"] = amax
    for index, weight in enumerate(calibration.codes.values()):
        arrays |= {f"{_CODES}.{index}": weight.codes, f"{_SCALES}.{index}": weight.scales}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", _EPOCH), write_npy(array), compress_type=zipfile.ZIP_DEFLATED
            )
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
    """Read a calibration file; `calibrate.smoothed` checks that it belongs to a graph.

    Raises:
        CalibrationError: the file is not a calibration, is damaged, or has another version.
    """
    what = f"the calibration cache {str(path)!r}"
    arrays = _read_arrays(Path(path), what)
    if _HEADER not in arrays or _COUNTS not in arrays:
        raise CalibrationError(f"{what} is not a calibration cache", hint=_HINT)
    value = loads_strict(arrays[_HEADER].tobytes(), what=what, error=CalibrationError)
    version = value.get("version") if isinstance(value, dict) else None
    if version != CACHE_VERSION:
        raise CalibrationError(f"{what} has version {version!r}, this is for version {CACHE_VERSION}", hint=_HINT)
    header = from_json(_Header, value, where=what, error=CalibrationError)
    counts = arrays[_COUNTS]
    channels = {name: arrays.get(f"{_CHANNELS}.{i}") for i, name in enumerate(header.channels)}
    splits = [half for t in header.tensors for half in t.splits]
    if (
        counts.shape != (len(header.tensors), 2, 2 * HALF_BINS)
        or counts.dtype != np.int64
        or any(len(t.splits) != 2 for t in header.tensors)
        or len({t.name for t in header.tensors}) < len(header.tensors)
        or len(channels) < len(header.channels)
        or not all(half.counts(row) for half, row in zip(splits, counts.reshape(-1, 2 * HALF_BINS), strict=True))
        or not all(_magnitudes(c) for c in channels.values())
    ):
        raise CalibrationError(f"{what} is damaged: its arrays are not those of its header", hint=_HINT)
    tensors = {
        t.name: TensorStatistics(splits=(_histogram(t.splits[0], rows[0]), _histogram(t.splits[1], rows[1])))
        for t, rows in zip(header.tensors, counts, strict=True)
    }
    codes = [
        _fitted(w, arrays.get(f"{_CODES}.{i}"), arrays.get(f"{_SCALES}.{i}")) for i, w in enumerate(header.weights)
    ]
    if None in codes:
        raise CalibrationError(f"{what} is damaged: its arrays are not those of its header", hint=_HINT)
    return Calibration(
        graph_sha256=header.graph_sha256,
        rotated=header.rotated,
        split_skips=header.split_skips,
        smoothing=header.smoothing,
        equalization=header.equalization,
        channels={name: c for name, c in channels.items() if c is not None},
        statistics=Statistics(
            tensors=tensors, samples=header.samples, batches=header.batches, samples_sha256=header.samples_sha256
        ),
        half_precision=header.half_precision,
        methods=header.methods,
        choice=header.choice,
        float_sites=header.float_sites,
        float_choice=header.float_choice,
        codes={weight.name: weight for weight in codes if weight is not None},
    )


def _fitted(weight: _Weight, codes: Array | None, scales: Array | None) -> QuantizedWeight | None:
    """The weight, or None where these are not its arrays."""
    if codes is None or scales is None or not 0 <= weight.axis < codes.ndim:
        return None
    grid = GRIDS[weight.grid]
    expected = stored_codes(grid, np.empty(0)).dtype
    if codes.dtype != expected or scales.dtype != np.float32 or scales.shape != (codes.shape[weight.axis],):
        return None
    if not (np.isfinite(scales) & (scales > 0)).all() or not np.array_equal(grid.round_codes(codes), codes):
        return None
    return QuantizedWeight(name=weight.name, codes=codes, scales=scales, axis=weight.axis, block=None, grid=grid)


def _read_arrays(path: Path, what: str) -> dict[str, Array]:
    """Read every array of the archive; check its length and its checksum."""
    try:
        with os.fdopen(_open(path), "rb") as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MAX_CACHE_BYTES:
                raise CalibrationError(f"{what} would unpack to more than {MAX_CACHE_BYTES:,} bytes", hint=_HINT)
            return {e.filename.removesuffix(".npy"): read_npy(archive.read(e), what=e.filename) for e in entries}
    except zipfile.BadZipFile as err:
        raise CalibrationError(f"{what} is damaged, or not a calibration cache: {err}", hint=_HINT) from err
    except OSError as err:
        raise CalibrationError(f"cannot read {what}: {err.strerror or err}", hint=_HINT) from err
    except (BundleError, ValueError, RuntimeError, EOFError, struct.error, zlib.error, MemoryError) as err:
        raise CalibrationError(f"{what} is damaged: {str(err) or type(err).__name__}", hint=_HINT) from err


def _open(path: Path) -> int:
    try:
        return open_plain(path, error=CalibrationError)
    except CalibrationError as err:
        raise CalibrationError(err.message, hint=f"{err.hint}; {_HINT}") from err


def _magnitudes(array: Array | None) -> bool:
    if array is None or array.ndim != 1 or array.dtype != np.float32:
        return False
    return bool((np.isfinite(array) & (array >= 0)).all())


def _histogram(half: _Half, counts: Array) -> Histogram:
    made = Histogram(counts=counts.copy(), width=half.width, count=half.count, zeros=half.zeros, huge=half.huge)
    if half.low is not None and half.high is not None:
        made.low, made.high = half.low, half.high
    return made
