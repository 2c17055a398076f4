"""A histogram of values whose range nobody knows beforehand: bounded memory, one pass, exact merging.

Bins have the width of a power of two and meet at zero. When a value falls outside, neighboring bins are added
pairwise and the width doubles. So the result depends on the values alone: not on their order, not on how they were
split into batches, and the histograms of two processes add up to that of one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from aigc_runtime.core.tensors import Array

__all__ = ["HALF_BINS", "HUGE", "Histogram"]

HALF_BINS = 4096
"""Bins on either side of zero: an 8-bit step spans 16 bins or more, so that bin centers stand for values."""

HUGE = 1e30
"""Numbers from here on are mask constants, not data."""


@dataclass(kw_only=True)
class Histogram:
    """Counts of real numbers.

    Attributes:
        counts: [2 * HALF_BINS] int64; bin i holds the values of [(i - HALF_BINS) * width, (i + 1 - HALF_BINS) * width).
        width: of a bin, a power of two; 0 while every value was zero.
        low: the smallest value; +inf while there is none.
        high: the largest value.
        count: values, exact zeros included.
        zeros: values that are exactly zero, which every symmetric grid holds exactly; they are not in `counts`.
        huge: values beyond `HUGE` or infinite; they are nowhere else.
    """

    counts: Array = field(default_factory=lambda: np.zeros(2 * HALF_BINS, dtype=np.int64))
    width: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    count: int = 0
    zeros: int = 0
    huge: int = 0

    def update(self, values: Array, *, every: int = 1) -> None:
        """Add values of any shape; they must not be NaN.

        Args:
            values: all of which decide `low`, `high` and `huge`.
            every: every so manyth of them is counted, from the first on.
        """
        flat = np.asarray(values, dtype=np.float32).reshape(-1)
        if flat.size == 0:
            return
        low, high = float(flat.min()), float(flat.max())
        if max(-low, high) >= HUGE:
            sane = np.abs(flat) < HUGE
            self.huge += int(flat.size - np.count_nonzero(sane))
            flat = flat[sane]
            if flat.size == 0:
                return
            low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        flat = flat[::every]
        self.count += flat.size
        nonzero = int(np.count_nonzero(flat))
        self.zeros += flat.size - nonzero
        if nonzero == 0:
            return
        self._widen(_width_for(max(abs(low), abs(high))))
        scaled = flat * np.float32(1 / self.width)
        # Underflow: so near zero, but below it.
        below = None if np.count_nonzero(scaled) == nonzero else (scaled == 0) & (flat < 0)
        indices = np.floor(scaled, out=scaled).astype(np.int64)
        indices += HALF_BINS
        if below is not None:
            indices[below] -= 1
        self.counts += np.bincount(indices, minlength=2 * HALF_BINS)
        self.counts[HALF_BINS] -= flat.size - nonzero

    def merge(self, other: Histogram) -> None:
        """Add everything that `other` counted."""
        self.count, self.zeros, self.huge = self.count + other.count, self.zeros + other.zeros, self.huge + other.huge
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        if other.width:
            self._widen(other.width)
            self.counts += _coarser(other.counts, _doublings(other.width, self.width))

    def _widen(self, width: float) -> None:
        if self.width == 0.0:
            self.width = width
        elif width > self.width:
            self.counts = _coarser(self.counts, _doublings(self.width, width))
            self.width = width

    @property
    def amax(self) -> float:
        """Largest magnitude; 0 for no values."""
        return max(abs(self.low), abs(self.high)) if self.count else 0.0

    def signed(self) -> tuple[Array, Array]:
        """Centers of the bins, [2 * HALF_BINS] float64, and how many values lie in each; zeros are left out."""
        return (np.arange(2 * HALF_BINS) - HALF_BINS + 0.5) * self.width, self.counts.astype(np.float64)

    def magnitudes(self) -> tuple[Array, Array]:
        """Centers of the bins of |x|, [HALF_BINS] float64, and how many values lie in each; zeros are left out."""
        centers = (np.arange(HALF_BINS) + 0.5) * self.width
        return centers, (self.counts[HALF_BINS:] + self.counts[:HALF_BINS][::-1]).astype(np.float64)


def _width_for(amax: float) -> float:
    """The smallest power of two that puts +-amax inside the bins."""
    # float32's smallest normal number keeps 1 / width finite.
    exponent = max(math.frexp(amax / HALF_BINS)[1], -120)
    width = math.ldexp(1.0, exponent)
    return width / 2 if amax < width / 2 * HALF_BINS and exponent > -120 else width


def _doublings(narrow: float, wide: float) -> int:
    return max(round(math.log2(wide / narrow)), 0)


def _coarser(counts: Array, doublings: int) -> Array:
    """Add pairs of neighbors, away from zero on both sides."""
    for _ in range(min(doublings, HALF_BINS.bit_length())):
        half = HALF_BINS // 2
        pairs = counts.reshape(-1, 2).sum(axis=1)
        counts = np.concatenate([np.zeros(half, np.int64), pairs, np.zeros(half, np.int64)])
    return counts
