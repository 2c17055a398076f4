"""Second moments of what enters a matrix product: H = mean of x x^T, over all rows of all samples.

The squared error of a product with a changed weight W' is tr((W - W')^T H (W - W')): GPTQ and AWQ need nothing else of
the data, so no sample is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.data import CalibrationData
from aigc_calibration.matrices import Reading
from aigc_calibration.onnx_function import open_watched
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["SecondMoments", "collect_hessians", "fit_at_once", "product_error"]

BUDGET_BYTES = 2**30
"""Matrices held at a time; readings that need more are collected in several runs over the data."""


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
            moments.add(watch(feeds))
            seen += len(next(iter(feeds.values())))
            if progress is not None:
                progress(seen)
        for reading in part:
            yield reading, moments.mean(reading)


class SecondMoments:
    """Sums of x x^T of several readings over batches of values.

    Args:
        readings: what to sum.
    """

    def __init__(self, readings: Collection[Reading]) -> None:
        self._sums = {reading: np.zeros((reading.width, reading.width)) for reading in readings}
        self._rows = dict.fromkeys(readings, 0)

    def add(self, values: Mapping[str, Array]) -> None:
        """Add a batch, by names of the values."""
        for reading in self._sums:
            x = reading.rows(values[reading.value])
            self._sums[reading] += _second_moments(x)
            self._rows[reading] += len(x)

    def mean(self, reading: Reading) -> Array:
        """[width, width] float64; it is forgotten here, since all of them are large."""
        total = self._sums.pop(reading)
        total /= max(self._rows[reading], 1)
        return total


def fit_at_once(readings: Collection[Reading], budget_bytes: int = BUDGET_BYTES) -> bool:
    """Check whether the matrices of all readings may be held at a time."""
    return len(list(_parts(readings, budget_bytes))) <= 1


def _second_moments(x: Array) -> Array:
    """x^T x, float64; numbers whose squares float32 cannot hold are scaled by a power of two."""
    peak = float(np.abs(x).max(initial=0.0))
    if not np.isfinite(peak):
        return np.full((x.shape[1], x.shape[1]), np.nan)
    if peak == 0 or 1e-12 < peak < 1e12:
        return np.asarray(x.T @ x, dtype=np.float64)
    _, exponent = np.frexp(peak)
    scaled = np.ldexp(x, -exponent)
    result: Array = np.ldexp((scaled.T @ scaled).astype(np.float64), 2 * exponent)
    return result


def _parts(readings: Collection[Reading], budget_bytes: int) -> Iterator[list[Reading]]:
    part: list[Reading] = []
    used = 0
    for reading in dict.fromkeys(readings):
        size = 8 * reading.width**2
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
