"""Second moments of what enters a matrix product: H = mean of x x^T, over all rows of all samples.

Where the data says that some rows count more (`row_weights`), it is a weighted mean.

The squared error of a product with a changed weight W' is tr((W - W')^T H (W - W')): GPTQ and AWQ need nothing else of
the data, so no sample is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.data import CalibrationData, row_weights
from aigc_calibration.matrices import Reading
from aigc_calibration.onnx_function import open_watched
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["SampledMoments", "SecondMoments", "collect_hessians", "fit_at_once", "product_error"]

BUDGET_BYTES = 2**30
"""Matrices held at a time; readings that need more are collected in several runs over the data."""
ROWS_AT_ONCE = 256
"""Rows whose product is added at a time, at least."""
LEAST_EXPONENT = -126
"""Of float32's normal numbers."""


def collect_hessians(
    model: ir.Model,
    data: CalibrationData,
    readings: Collection[Reading],
    *,
    threads: int | None = None,
    budget_bytes: int = BUDGET_BYTES,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[Reading, Array]]:
    """Reading -> [width, width] float64, one after the other.

    Args:
        model: the float graph.
        data: what to run it on.
        readings: what to collect.
        threads: of the engine.
        budget_bytes: for the matrices.
        progress: called after every batch with the rows seen; it starts over where the matrices do not fit at once.
    """
    for part in _parts(readings, budget_bytes):
        run, watch = open_watched(model, sorted({r.value for r in part}), threads=threads)
        moments = SecondMoments(part)
        seen = 0
        for feeds in data.batches(run):
            moments.add(watch(feeds), row_weights(data, feeds))
            seen += len(next(iter(feeds.values())))
            if progress is not None:
                progress(seen)
        for reading in part:
            yield reading, moments.mean(reading)


class SecondMoments:
    """Sums of x x^T of several readings over batches of values.

    They are kept in float32: what that rounds is far below what `gptq` adds to the diagonal. Rows wait until there are
    `ROWS_AT_ONCE` of them: adding the product of a few, such as the tokens that a language model decodes one by one,
    takes as long as that of many.

    Args:
        readings: what to sum.
    """

    def __init__(self, readings: Collection[Reading]) -> None:
        self._sums = {reading: _Sum(reading.width) for reading in readings}

    def add(self, values: Mapping[str, Array], weights: Array | None = None) -> None:
        """Add a batch.

        Args:
            values: by name.
            weights: of rows, for values that have this shape before their last axis, or as many rows on two axes;
                None and other values: all rows count once.
        """
        for reading, found in self._sums.items():
            value = values[reading.value]
            found.add(reading.rows(value), _weights_of(reading, value, weights))

    def mean(self, reading: Reading) -> Array:
        """[width, width] float64; it is forgotten here, since all of them are large."""
        return self._sums.pop(reading).mean()


class SampledMoments:
    """Means of x x^T over rows that are drawn evenly from all samples: as many as a matrix needs, and no more.

    Args:
        readings: what to watch.
        samples: rows of the data, over all batches.
        rows: that are drawn for each number of a row.
        seed: of the draws.
    """

    def __init__(self, readings: Collection[Reading], *, samples: int, rows: int, seed: int = 0) -> None:
        self._sums = {reading: _Sum(reading.width) for reading in readings}
        self._share = {reading: rows * reading.width / max(samples, 1) for reading in readings}
        self._rng = np.random.default_rng(seed)

    def add(self, values: Mapping[str, Array], samples: int, weights: Array | None = None) -> None:
        """Add a batch.

        Args:
            values: by name.
            samples: rows of the batch.
            weights: see `SecondMoments.add`.
        """
        for reading, found in self._sums.items():
            value = values[reading.value]
            x, places = reading.drawn(value, math.ceil(self._share[reading] * samples), self._rng)
            weighed = _weights_of(reading, value, weights)
            found.add(x, None if weighed is None else weighed[places])

    def rows(self, reading: Reading) -> int:
        """Count the rows that were drawn, whatever their weights; 0 for what was not watched."""
        return self._sums[reading].rows if reading in self._sums else 0

    def mean(self, reading: Reading) -> Array:
        """[width, width] float64."""
        return self._sums[reading].mean()


def _weights_of(reading: Reading, value: Array, weights: Array | None) -> Array | None:
    """The weights of what a product reads, [rows]; None where they are of something else."""
    if weights is None or reading.kind != "last":
        return None
    alike = value.shape[:-1] == weights.shape or (value.ndim == 2 and len(value) == weights.size)
    return weights.ravel() if alike else None


class _Sum:
    """The sum of x^T x in units of a power of four, so that float32 holds the squares of all numbers.

    It is symmetric, and a triangle is held, in LAPACK's rectangular full packed format (Gustavson et al. 2010,
    "Rectangular full packed format for Cholesky's algorithm"), to which a product is added as fast as to a square.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._total = np.zeros(width * (width + 1) // 2, dtype=np.float32)
        self._exponent = LEAST_EXPONENT
        self._waiting: list[Array] = []
        self._count = 0.0
        self.rows = 0

    def add(self, x: Array, weights: Array | None) -> None:
        """Add rows [rows, width], each as often as its weight [rows] says."""
        self.rows += len(x)
        self._count += len(x) if weights is None else float(weights.sum())
        if weights is not None:
            x = x * np.sqrt(weights, dtype=x.dtype)[:, None]
        self._waiting.append(x if len(x) >= ROWS_AT_ONCE else x.copy())  # a copy lets go of the batch
        if sum(map(len, self._waiting)) >= ROWS_AT_ONCE:
            self._add_waiting()

    def mean(self) -> Array:
        """[width, width] float64; NaN if a number was not finite."""
        from scipy.linalg.lapack import stfttr

        self._add_waiting()
        triangle, _ = stfttr(self._width, self._total, uplo="L")
        lower: Array = np.ldexp(np.tril(triangle).astype(np.float64), 2 * self._exponent) / (self._count or 1.0)
        return lower + np.tril(lower, -1).T

    def _add_waiting(self) -> None:
        from scipy.linalg.lapack import ssfrk

        if not self._waiting:
            return
        x = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting)
        self._waiting = []
        peak = max(float(x.max()), -float(x.min()))
        if not np.isfinite(peak):
            self._total.fill(np.nan)
        if peak == 0 or not np.isfinite(peak):
            return
        exponent = max(int(np.frexp(peak)[1]), self._exponent)
        if exponent > self._exponent:
            np.ldexp(self._total, 2 * (self._exponent - exponent), out=self._total)
            self._exponent = exponent
        scaled = np.ldexp(np.ascontiguousarray(x, dtype=np.float32), -exponent)
        self._total = ssfrk(self._width, len(x), 1.0, scaled.T, 1.0, self._total, uplo="L", overwrite_c=1)


def fit_at_once(readings: Collection[Reading], budget_bytes: int = BUDGET_BYTES) -> bool:
    """Check whether the matrices of all readings may be held at a time."""
    return len(list(_parts(readings, budget_bytes))) <= 1


def _parts(readings: Collection[Reading], budget_bytes: int) -> Iterator[list[Reading]]:
    part: list[Reading] = []
    used = 0
    for reading in dict.fromkeys(readings):
        size = 2 * reading.width**2  # a triangle in float32
        if part and used + size > budget_bytes:
            yield part
            part, used = [], 0
        part.append(reading)
        used += size
    if part:
        yield part


def product_error(weight: Array, changed: Array, hessian: Array) -> float:
    """Mean squared error of x W - x W', summed over the outputs: tr((W - W')^T H (W - W'))."""
    difference = (weight - changed).astype(np.float64)
    return float(np.einsum("kn,kn->", difference, hessian @ difference))
