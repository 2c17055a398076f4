"""How much another draw of samples would change what calibration found: the two halves of the samples, compared.

Samples in even and in odd places make the halves (`aigc_calibration.data.draws`). What is compared is what a precision
goes by: the ranges of 8-bit activations; the largest magnitudes for 16 bits, which only have to fit; for weights alone
the root mean square of what they are multiplied with, whose second moments they are fitted to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from aigc_calibration.collect import Statistics
from aigc_calibration.histogram import Histogram
from aigc_calibration.plan import HALVES, QuantizationPlan
from aigc_calibration.planner import HALF_HEADROOM

__all__ = ["LEAST_ROWS", "UNSTABLE", "UNSTABLE_EXTREME", "RangeStability", "instability_warning", "stability"]

UNSTABLE = 0.15
"""Ranges, or root mean squares, of the two halves that are further apart than this, relative to both together."""
UNSTABLE_EXTREME = 1 - 1 / HALF_HEADROOM
"""The same for largest magnitudes in 16 bits: from here on another sample may reach beyond what is left free."""
LEAST_ROWS = 40
"""Fewer rows are warned of whatever the halves say: two small halves can agree by chance. See docs/quantization.md."""


@dataclass(frozen=True, kw_only=True)
class RangeStability:
    """How sure a range is.

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
    """What a plan goes by, the least stable first."""
    return tuple(sorted(_compared(plan, seen), key=lambda r: (-r.instability, r.name)))


def _compared(plan: QuantizationPlan, seen: Statistics) -> Iterator[RangeStability]:
    if plan.tensors:
        for t in plan.tensors:
            yield RangeStability(name=t.name, amax=t.amax, instability=t.instability)
        return
    measure = _extreme if plan.precision in HALVES else _root_mean_square
    for name, tensor in seen.tensors.items():
        whole, (first, second) = measure(tensor.histogram), (measure(half) for half in tensor.halves)
        apart = abs(first - second) / whole if whole else 0.0
        yield RangeStability(name=name, amax=tensor.histogram.amax, instability=apart)


def _extreme(histogram: Histogram) -> float:
    return histogram.amax


def _root_mean_square(histogram: Histogram) -> float:
    centres, counts = histogram.signed()
    return math.sqrt(float((centres**2) @ counts) / histogram.count) if histogram.count else 0.0


def instability_warning(plan: QuantizationPlan, seen: Statistics) -> str:
    """What to say where another draw of samples would change the result; empty if it would not."""
    found = stability(plan, seen)
    if not found:
        return ""
    if not any(tensor.halves[1].count for tensor in seen.tensors.values()):
        return "there is one sample, so that nothing tells how stable its ranges are: give more samples"
    limit = UNSTABLE_EXTREME if not plan.tensors and plan.precision in HALVES else UNSTABLE
    loose = [r for r in found if r.instability > limit]
    worst = f"{found[0].name!r} by {found[0].instability:.0%}"
    if loose:
        return (
            f"{len(loose)} of {len(found)} ranges change by more than {limit:.0%} from one half of the samples to the "
            f"other, {worst}: give more samples"
        )
    if seen.samples < LEAST_ROWS:
        return (
            f"{seen.samples} rows of samples are few; from one half of them to the other the least stable of "
            f"{len(found)} ranges changes, {worst}: give at least {LEAST_ROWS}"
        )
    return ""
