"""Choose the range of a grid from the histogram of a tensor: the numbers that its outermost codes stand for.

A wider range clips less and rounds more coarsely. Symmetric grids (TensorRT's) take `find_amax`, the magnitude of the
largest code; grids with a zero point (ONNX Runtime's) take `find_bounds`, which spends no code on numbers that never
occur: behind Relu or SiLU that is nearly one bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np

from aigc_calibration.grids import GRIDS, Grid
from aigc_calibration.histogram import Histogram
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError, UnknownNameError

__all__ = ["METHODS", "Method", "RangeChoice", "affine_scale", "find_amax", "find_bounds"]

Method = Literal["minmax", "percentile", "mse", "kl"]
RangeChoice = Literal["auto", "minmax", "percentile", "mse", "kl"]
"""`auto`: of every range that method which does least harm to the outputs."""

_CANDIDATES = 120
_KL_BINS = 2048
_AFFINE_STEPS = 255
"""Steps between the outermost of 256 codes."""
_AFFINE_ROUNDS = 4


def find_amax(
    histogram: Histogram,
    method: Method,
    grid: Grid,
    *,
    percentile: float = 99.99,
    through: Callable[[Array], Array] | None = None,
) -> float:
    """Choose the range of one tensor.

    Args:
        histogram: its values.
        method: `minmax` (nothing is clipped), `percentile` (of the magnitudes), `mse` (least squared error) or `kl`
            (least information lost).
        grid: what the tensor is quantized to.
        percentile: for that method, in (0, 100].
        through: for the method `mse`, a rising function behind which errors count; None where they count as they are.

    Returns:
        A magnitude; 0 for a tensor that is zero throughout.

    Raises:
        UnknownNameError: an unknown method.
        ConfigError: a percentile outside its range.
    """
    if method not in METHODS:
        raise UnknownNameError("range method", method, METHODS)
    if not 0 < percentile <= 100:
        raise ConfigError(f"percentile is {percentile}", hint="must be above 0, at most 100")
    if histogram.count == histogram.zeros:
        return 0.0
    if through is not None and method == "mse":
        return _least_error(histogram, *histogram.signed(), grid, through)
    return METHODS[method](histogram, grid, percentile)


def find_bounds(
    histogram: Histogram,
    method: Method,
    *,
    percentile: float = 99.99,
    through: Callable[[Array], Array] | None = None,
    amax: float | None = None,
) -> tuple[float, float]:
    """Choose the range of one tensor for a grid of 256 codes with a zero point (Jacob et al. 2018, equation 1).

    Args:
        histogram: its values.
        method: as in `find_amax`; `kl` is defined for magnitudes, so its range is cut to what was seen.
        percentile: of the magnitudes.
        through: as in `find_amax`.
        amax: of `find_amax` with the same arguments and 8-bit integers, where it is known.

    Returns:
        (low, high), low <= 0 <= high, since zero must be a code; both 0 for a tensor that is zero throughout.

    Raises:
        UnknownNameError: an unknown method.
        ConfigError: a percentile outside its range.
    """
    if amax is None:
        amax = find_amax(histogram, method, GRIDS["int8"], percentile=percentile, through=through)
    seen = (min(histogram.low, 0.0), max(histogram.high, 0.0)) if amax else (0.0, 0.0)
    low, high = max(seen[0], -amax), min(seen[1], amax)
    if method != "mse":
        return low, high
    return _least_affine_error(histogram, seen, (low, high), through or (lambda x: x))


def affine_scale(low: float, high: float) -> tuple[float, int]:
    """(scale, zero point) of 256 unsigned codes from `low` to `high`, zero being exactly one of them.

    >>> affine_scale(-1.0, 254.0)
    (1.0, 1)
    """
    scale = max(np.float32((high - low) / _AFFINE_STEPS), np.finfo(np.float32).tiny)
    return float(scale), int(np.clip(np.rint(-low / float(scale)), 0, _AFFINE_STEPS))


def _least_affine_error(
    histogram: Histogram, seen: tuple[float, float], start: tuple[float, float], through: Callable[[Array], Array]
) -> tuple[float, float]:
    """Least squared error: one end is moved, then the other, until neither moves.

    Starting from the best symmetric range, cut to what was seen, it can only get better than that.
    """
    centers, counts = histogram.signed()
    used = np.flatnonzero(counts)
    centers, counts = np.clip(centers[used], *seen), counts[used]
    exact = through(centers)

    def error(low: float, high: float) -> float:
        scale, zero = affine_scale(low, high)
        codes = np.clip(np.rint(centers / scale) + zero, 0, _AFFINE_STEPS)
        difference = through((codes - zero) * scale) - exact
        return float(np.dot(counts, difference * difference))

    best = (error(*start), *start)
    for _ in range(_AFFINE_ROUNDS):
        before = best
        for fraction in np.linspace(0.05, 1.0, _CANDIDATES):
            best = min(best, (error(best[1], seen[1] * fraction), best[1], seen[1] * fraction))
        for fraction in np.linspace(0.05, 1.0, _CANDIDATES):
            best = min(best, (error(seen[0] * fraction, best[2]), seen[0] * fraction, best[2]))
        if best == before:
            break
    return float(best[1]), float(best[2])


def _minmax(histogram: Histogram, _grid: Grid, _percentile: float) -> float:
    return histogram.amax


def _percentile(histogram: Histogram, _grid: Grid, percentile: float) -> float:
    """The smallest bin edge that holds the share of all values, zeros included."""
    _, counts = histogram.magnitudes()
    reached = (histogram.zeros + np.cumsum(counts)) / histogram.count
    bins = int(np.searchsorted(reached, percentile / 100, side="left")) + 1
    return min(bins * histogram.width, histogram.amax)


def _mse(histogram: Histogram, grid: Grid, _percentile: float) -> float:
    return _least_error(histogram, *histogram.magnitudes(), grid, lambda x: x)


def _least_error(
    histogram: Histogram, centers: Array, counts: Array, grid: Grid, through: Callable[[Array], Array]
) -> float:
    """Search between a twentieth of the largest magnitude and all of it, then once more around the best."""
    used = np.flatnonzero(counts)
    centers, counts = np.clip(centers[used], -histogram.amax, histogram.amax), counts[used]
    exact = through(centers)

    def error(amax: float) -> float:
        difference = through(grid.round_trip(centers, grid.scale_for(amax))) - exact
        return float(np.dot(counts, difference * difference))

    candidates = histogram.amax * np.linspace(0.05, 1.0, _CANDIDATES)
    best = int(np.argmin([error(a) for a in candidates]))
    around = np.linspace(candidates[max(best - 1, 0)], candidates[min(best + 1, _CANDIDATES - 1)], 21)
    return float(around[int(np.argmin([error(a) for a in around]))])


def _kl(histogram: Histogram, _grid: Grid, _percentile: float) -> float:
    """The range at which the quantized distribution is least surprising (Migacz 2017, "8-bit inference with TensorRT").

    Exact zeros are left out: ReLU makes so many that they would be all that the divergence sees. A bin of the clipped
    distribution that is empty stays empty; what is clipped is added to the last bin.
    """
    _, fine = histogram.magnitudes()
    top = math.ceil(histogram.amax / histogram.width)
    group = max(math.ceil(top / _KL_BINS), 1)
    padded = np.zeros(math.ceil(top / group) * group)
    padded[:top] = fine[:top]
    counts = padded.reshape(-1, group).sum(axis=1)
    levels = 128
    if len(counts) <= levels:
        return histogram.amax
    ends = [*range(levels, len(counts), max(len(counts) // 256, 1)), len(counts)]
    best = min(ends, key=lambda end: _divergence(counts, end, levels))
    return min(float(best * group * histogram.width), histogram.amax)


def _divergence(counts: Array, end: int, levels: int) -> float:
    """KL divergence of the clipped distribution from the same in `levels` steps."""
    inside = counts[:end]
    p = inside.copy()
    p[-1] += counts[end:].sum()
    step = np.arange(end) * levels // end
    filled = (p > 0).astype(np.float64)
    mass = np.bincount(step, inside, levels)
    share = mass / np.maximum(np.bincount(step, filled, levels), 1)
    q = share[step] * filled
    if not q.sum():
        return math.inf
    p, q = p / p.sum(), q / q.sum()
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-12))))


METHODS: Mapping[Method, Callable[[Histogram, Grid, float], float]] = MappingProxyType(
    {"minmax": _minmax, "percentile": _percentile, "mse": _mse, "kl": _kl}
)
"""name -> (histogram, grid, percentile) -> amax."""
