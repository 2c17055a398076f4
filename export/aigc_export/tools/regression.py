"""Check by how much a bundle is larger or slower than its baseline.

Sizes are exact. Times are measured in rounds, both bundles in each, and the median over the rounds counts; a limit is
missed only if the lower end of that median's confidence interval is beyond it, so that noise alone does not fail.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aigc_export.tools.timing import SideBySide
from aigc_runtime.errors import ConfigError

__all__ = ["MIN_ROUNDS", "CostCheck", "CostLimit", "check_latency", "check_size", "median_interval", "parse_limit"]

Kind = Literal["size", "latency"]

MIN_ROUNDS = 9
"""Rounds of timing, where times are compared: the interval then leaves out the largest and the smallest."""

CONFIDENCE = 0.95
"""Of the interval of a median; a sound bundle whose true cost is the limit itself fails in at most 2.5 % of runs."""

_UNITS: dict[Kind, dict[str, float]] = {
    "size": {"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "latency": {"": 1, "us": 1e-3, "ms": 1, "s": 1e3},
}
_PLAIN: dict[Kind, str] = {"size": "bytes", "latency": "milliseconds"}
_FORM = re.compile(r"\+?(?P<value>[0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})\s*(?P<unit>%|[A-Za-z]*)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class CostLimit:
    """The limit of one cost.

    Attributes:
        text: as it was written.
        kind: what it limits.
        increase: whether it limits the increase over the baseline; else the cost itself.
        value: a share of the baseline if `relative`; else bytes or milliseconds.
        relative: to the baseline.
    """

    text: str
    kind: Kind
    increase: bool
    value: float
    relative: bool


@dataclass(frozen=True, kw_only=True)
class CostCheck:
    """A cost held against its limit; all numbers are in `unit`.

    Attributes:
        name: `size`, `size increase`, `latency` or `latency increase`.
        unit: `bytes`, `milliseconds` or `share` (of the baseline's cost).
        measured: the cost, or the increase.
        low: lower end of its confidence interval; a size is exact.
        high: upper end.
        limit: the largest allowed.
        passed: whether `low` is within it.
    """

    name: str
    unit: str
    measured: float
    low: float
    high: float
    limit: float
    passed: bool

    def __str__(self) -> str:
        shown = [self._shown(v) for v in (self.measured, self.low, self.high, self.limit)]
        between = f" ({shown[1]} to {shown[2]} with the noise of the rounds)" if self.low < self.high else ""
        doubt = ", beyond the limit by less than the noise" if self.passed and self.measured > self.limit else ""
        return f"{self.name} {shown[0]}{between}, at most {shown[3]}: {'pass' if self.passed else 'FAIL'}{doubt}"

    def _shown(self, value: float) -> str:
        if self.unit == "share":
            return f"{value:+.1%}"
        return f"{value:,.0f} bytes" if self.unit == "bytes" else f"{value:.4g} ms"


def parse_limit(text: str, kind: Kind, *, increase: bool) -> CostLimit:
    """Read a limit: `5%` (of the baseline), or a number of bytes or milliseconds, with a unit or without.

    >>> parse_limit("5%", "size", increase=True).value
    0.05
    >>> parse_limit("20kB", "size", increase=True).value
    20000.0

    Raises:
        ConfigError: it is neither, or a percentage of nothing.
    """
    found = _FORM.fullmatch(text.strip())
    units = _UNITS[kind]
    relative = found is not None and found["unit"] == "%"
    if found is None or (found["unit"] not in units and not relative) or (relative and not increase):
        percent = "a percentage of the baseline, such as 5%, or " if increase else ""
        raise ConfigError(
            f"{text!r} is no limit of a {kind}",
            hint=f"give {percent}a number of {_PLAIN[kind]}, such as 1000; units: {', '.join(u for u in units if u)}",
        )
    number = float(found["value"])
    value = number / 100 if relative else number * units[found["unit"]]
    if kind == "size" and not relative and value != int(value):
        raise ConfigError(f"{text!r} is no number of bytes", hint=f"did you mean {number * 100:g}%?")
    return CostLimit(text=text, kind=kind, increase=increase, value=value, relative=relative)


def check_size(limit: CostLimit, *, baseline_bytes: int, size_bytes: int) -> CostCheck:
    """Hold a size against its limit."""
    return _check(limit, [(float(baseline_bytes), float(size_bytes))])


def check_latency(limit: CostLimit, timing: SideBySide) -> CostCheck:
    """Hold the median of a step's time against its limit."""
    return _check(limit, timing.rounds)


def _check(limit: CostLimit, pairs: Sequence[tuple[float, float]]) -> CostCheck:
    if not limit.increase:
        unit, values = _PLAIN[limit.kind], [b for _, b in pairs]
    elif limit.relative:
        unit, values = "share", [(b - a) / a for a, b in pairs]
    else:
        unit, values = _PLAIN[limit.kind], [b - a for a, b in pairs]
    low, high = median_interval(values)
    return CostCheck(
        name=f"{limit.kind} increase" if limit.increase else limit.kind,
        unit=unit,
        measured=statistics.median(values),
        low=low,
        high=high,
        limit=limit.value,
        passed=low <= limit.value,
    )


def median_interval(values: Sequence[float], *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Confidence interval of a median by order statistics, whatever the distribution (Conover 1999, section 3.2).

    The number of values below the true median is binomial with p = 1/2: as many values are left out at either end as
    keep the chance of an error there within (1 - confidence) / 2. Of few values none is left out.
    """
    ordered, n = sorted(values), len(values)
    cut, below = 0, 0.0
    while cut < n // 2:
        below += math.comb(n, cut) / 2**n
        if below > (1 - confidence) / 2:
            break
        cut += 1
    left_out = max(0, cut - 1)
    return ordered[left_out], ordered[n - 1 - left_out]
