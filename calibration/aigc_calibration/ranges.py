"""How far a grid shall reach: from the histogram of a tensor to the magnitude of the largest code.

A wider range clips less and rounds more coarsely. All methods return `amax`, the magnitude that the largest code
stands for; both engines quantise activations symmetrically.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np

from aigc_calibration.grids import Grid
from aigc_calibration.histogram import Histogram
from aigc_runtime.errors import ConfigError, UnknownNameError
from aigc_runtime.tensors import Array

__all__ = ["METHODS", "Method", "find_amax"]

Method = Literal["minmax", "percentile", "mse", "kl"]

_CANDIDATES = 120
_KL_BINS = 2048


def find_amax(
    histogram: Histogram,
    method: Method,
    grid: Grid,
    *,
    percentile: float = 99.99,
    through: Callable[[Array], Array] | None = None,
) -> float:
    """The range of one tensor.

    Args:
        histogram: its values.
        method: `minmax` (nothing is clipped), `percentile` (of the magnitudes), `mse` (least squared error) or `kl`
            (least information lost).
        grid: what the tensor is quantised to.
        percentile: for that method, in (0, 100].
        through: the function that alone reads the tensor, if it saturates: errors that it flattens do not count. The
            range is then that of the least squared error behind it, whatever the method.

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
    if through is not None:
        return _least_error(histogram, *histogram.signed(), grid, through)
    return METHODS[method](histogram, grid, percentile)


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
    histogram: Histogram, centres: Array, counts: Array, grid: Grid, through: Callable[[Array], Array]
) -> float:
    """Search between a twentieth of the largest magnitude and all of it, then once more around the best."""
    used = np.flatnonzero(counts)
    centres, counts = np.clip(centres[used], -histogram.amax, histogram.amax), counts[used]
    exact = through(centres)

    def error(amax: float) -> float:
        difference = through(grid.round_trip(centres, grid.scale_for(amax))) - exact
        return float(np.dot(counts, difference * difference))

    candidates = histogram.amax * np.linspace(0.05, 1.0, _CANDIDATES)
    best = int(np.argmin([error(a) for a in candidates]))
    around = np.linspace(candidates[max(best - 1, 0)], candidates[min(best + 1, _CANDIDATES - 1)], 21)
    return float(around[int(np.argmin([error(a) for a in around]))])


def _kl(histogram: Histogram, _grid: Grid, _percentile: float) -> float:
    """The range at which the quantised distribution is least surprising (Migacz 2017, "8-bit inference with TensorRT").

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


METHODS: Mapping[str, Callable[[Histogram, Grid, float], float]] = MappingProxyType(
    {"minmax": _minmax, "percentile": _percentile, "mse": _mse, "kl": _kl}
)
"""name -> (histogram, grid, percentile) -> amax."""
