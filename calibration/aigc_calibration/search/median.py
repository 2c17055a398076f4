"""The median of rounds of timing, and its error, on a machine that other work disturbs now and then."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

__all__ = ["median_and_error"]

SIGMAS_OF_MIDDLE_HALF = 1.349
"""Standard deviations between the quartiles of a normal distribution."""
ERROR_OVER_MEAN = 1.253
"""Standard error of a median over that of a mean, of many normal values: the root of pi / 2."""


def median_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Compute the median of two values or more, and its standard error.

    The error is from the middle half of the values: a disturbed round is far off.

    >>> median_and_error([1.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0])
    (1.0, 0.0)
    """
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, (high - low) / SIGMAS_OF_MIDDLE_HALF * ERROR_OVER_MEAN / math.sqrt(len(values))
