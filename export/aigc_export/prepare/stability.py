"""Estimate how much other samples would change a calibration: compare the two halves of the samples.

Samples in even and in odd places make the halves (`aigc_calibration.data.draws`). What is compared is what a precision
goes by: the ranges of 8-bit activations; the largest magnitudes for 16 bits, which only have to fit; for weights alone
the root mean square of what they are multiplied with, whose second moments they are fitted to.

A range that differs is no harm by itself: behind SiLU the squared error has several minima that are nearly as deep as
each other, and ranges of equally good samples are 20 % apart. So 8-bit ranges are warned of by what they cost: how much
more error all samples would be rounded with if the range came from one half alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from aigc_calibration.collect import Statistics, TensorStatistics
from aigc_calibration.config import QuantConfig
from aigc_calibration.grids import GRIDS, Grid
from aigc_calibration.histogram import Histogram
from aigc_calibration.plan import HALF_PRECISIONS, QuantizationPlan, TensorPlan
from aigc_calibration.planner import HALF_HEADROOM
from aigc_calibration.ranges import Method, find_amax

__all__ = ["MIN_ROWS", "UNSTABLE", "UNSTABLE_EXTREME", "RangeStability", "instability_warning", "stability"]

UNSTABLE = 0.15
"""Most that one half's range may add to the root mean squared error, and that root mean squares may be apart."""
UNSTABLE_EXTREME = 1 - 1 / HALF_HEADROOM
"""Most that largest magnitudes in 16 bits may be apart: beyond it another sample may need more than is left free."""
MIN_ROWS = 40
"""Fewer rows are warned of whatever the halves say: two small halves can agree by chance. See docs/quantization.md."""


_METHODS: dict[str, Method] = {"minmax": "minmax", "percentile": "percentile", "mse": "mse", "kl": "kl"}


@dataclass(frozen=True, kw_only=True)
class RangeStability:
    """The stability of one range.

    Attributes:
        name: of the value in the graph.
        amax: magnitude of its largest code; the largest magnitude seen where the plan holds no range.
        instability: how far the two halves of the samples are apart, relative to both together. With one sample there
            is nothing to compare, and it is 1.
    """

    name: str
    amax: float
    instability: float


def stability(plan: QuantizationPlan, seen: Statistics) -> tuple[RangeStability, ...]:
    """Measure the stability of the ranges that a plan uses, the least stable first."""
    return tuple(sorted(_compared(plan, seen), key=lambda r: (-r.instability, r.name)))


def _compared(plan: QuantizationPlan, seen: Statistics) -> Iterator[RangeStability]:
    if plan.tensors:
        for t in plan.tensors:
            yield RangeStability(name=t.name, amax=t.amax, instability=t.instability)
        return
    measure = _extreme if plan.precision in HALF_PRECISIONS else _root_mean_square
    for name, tensor in seen.tensors.items():
        whole, (first, second) = measure(tensor.histogram), (measure(half) for half in tensor.splits)
        apart = abs(first - second) / whole if whole else 0.0
        yield RangeStability(name=name, amax=tensor.histogram.amax, instability=apart)


def _extreme(histogram: Histogram) -> float:
    return histogram.amax


def _root_mean_square(histogram: Histogram) -> float:
    centers, counts = histogram.signed()
    return math.sqrt(float((centers**2) @ counts) / histogram.count) if histogram.count else 0.0


def instability_warning(plan: QuantizationPlan, seen: Statistics, config: QuantConfig) -> str:
    """Warn where other samples would change the result; empty if they would not.

    Args:
        plan: that was made from the samples.
        seen: of the samples; empty where the plan needed none.
        config: that the plan was made by.
    """
    found = stability(plan, seen)
    if not found or not seen.tensors:
        return ""
    if not any(tensor.splits[1].count for tensor in seen.tensors.values()):
        return "there is one sample, so that nothing tells how stable its ranges are: give more samples"
    worst = f"{found[0].name!r} by {found[0].instability:.0%}"
    change = f"ranges change from one half of the samples to the other, {worst}"
    if plan.tensors:
        costs = _costs(plan, seen, config)
        loose = [name for name in costs if costs[name] > UNSTABLE]
        if loose:
            name = max(costs, key=lambda n: costs[n])
            return (
                f"{change}: for {len(loose)} of {len(found)} one half alone would give over {UNSTABLE:.0%} more "
                f"rounding error, for {name!r} {costs[name]:.0%} more: give more samples"
            )
    else:
        limit = UNSTABLE_EXTREME if plan.precision in HALF_PRECISIONS else UNSTABLE
        if loose := [r.name for r in found if r.instability > limit]:
            return f"{change}, {len(loose)} of {len(found)} by more than {limit:.0%}: give more samples"
    if seen.samples < MIN_ROWS:
        return f"{seen.samples} rows of samples are few; {change}: give at least {MIN_ROWS}"
    return ""


def _costs(plan: QuantizationPlan, seen: Statistics, config: QuantConfig) -> dict[str, float]:
    """Map value -> relative increase of root mean squared error with the range of the worse half alone."""
    grid = GRIDS["fp8" if plan.precision == "fp8" else "int8"]
    # A range that is shared with another value has no method of its own.
    return {
        t.name: _cost(t, _METHODS[t.method], seen.tensors[t.name], grid, config.percentile)
        for t in plan.tensors
        if t.method in _METHODS and t.name in seen.tensors
    }


def _cost(plan: TensorPlan, method: Method, tensor: TensorStatistics, grid: Grid, percentile: float) -> float:
    histograms = (tensor.histogram, *tensor.splits)
    ranges = [find_amax(h, method, grid, percentile=percentile) for h in histograms]
    if not math.isclose(ranges[0], plan.amax, rel_tol=1e-6):
        return plan.instability  # found behind a saturating function, whose error is another
    whole, first, second = (_squared_error(tensor.histogram, amax, grid) for amax in ranges)
    # Numbers that the whole range holds exactly: any error is infinitely more than none.
    if not whole:
        return math.inf if max(first, second) else 0.0
    return math.sqrt(max(first, second) / whole) - 1


def _squared_error(histogram: Histogram, amax: float, grid: Grid) -> float:
    centers, counts = histogram.magnitudes()
    difference = grid.round_trip(centers, grid.scale_for(amax)) - centers
    return float(counts @ difference**2)
