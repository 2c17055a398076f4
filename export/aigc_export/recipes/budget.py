"""Quality budgets: how much worse than PyTorch an engine of lower precision may be.

`ppl<=+0.5%`, `kl<=0.02`, `psnr>=45`, `class_accuracy>=-1%`: a measure, a direction, a limit. A limit with a sign and a
percent sign is relative to PyTorch's own value; one with a percent sign alone is a share: `class_accuracy>=95%` is
0.95.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from aigc_export.workloads import WORKLOADS
from aigc_export.workloads.base import Workload
from aigc_export.workloads.measures import Measure, Unit
from aigc_models.evaluation.paired import Scores
from aigc_runtime.errors import ConfigError, UnknownNameError

__all__ = [
    "Budget",
    "allowed_noise",
    "check_measures",
    "holds",
    "limit_noise",
    "measured_noise",
    "parse_budget",
    "shown",
]

_FORM = re.compile(
    r"(?P<name>[a-z0-9_]+)\s*(?P<sign><=|>=)\s*(?P<value>[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?)\s*(?P<percent>%?)"
)

SMALLEST = 1e-12
"""What something is relative to, at least: PyTorch's own value may be 0."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A limit on one measure.

    Attributes:
        text: as it was written.
        measure: a paired measure, or one of the models' own.
        upper: whether the limit is the largest allowed value; else the smallest.
        limit: a number; for `relative`, of value / PyTorch's - 1.
        relative: to PyTorch's value.
        unit: of the measure.
        tolerance: name of the tolerance that limits the measure, too; None where none does.
    """

    text: str
    measure: str
    upper: bool
    limit: float
    relative: bool
    unit: Unit
    tolerance: str | None

    def value(self, scores: Scores) -> float:
        """Return the measured value that the limit applies to.

        Raises:
            ConfigError: it was not measured.
        """
        for metric in scores.paired:
            if metric.name == self.measure:
                return metric.value
        for result in scores.quality:
            if result.metric == self.measure:
                more = result.bundle - result.reference
                return more / max(abs(result.reference), SMALLEST) if self.relative else result.bundle
        measured = [m.name for m in scores.paired] + [q.metric for q in scores.quality]
        raise ConfigError(
            f"the budget {self.text!r} limits {self.measure!r}, which is not measured for this model",
            hint=f"measured for it: {', '.join(measured)}",
        )

    def holds(self, scores: Scores) -> bool:
        """Check whether a candidate keeps the budget; NaN never does."""
        value = self.value(scores)
        return value <= self.limit if self.upper else value >= self.limit


def parse_budget(text: str, workload: Workload | None = None) -> Budget:
    """Read a budget.

    >>> parse_budget("ppl<=+0.5%").limit
    0.005

    Args:
        text: as it is written.
        workload: may have measures of its own beside those of the kinds here.

    Raises:
        ConfigError: not of the form `measure <= limit` or `measure >= limit`, or a limit in the wrong direction.
        UnknownNameError: an unknown measure.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"budget {text!r} cannot be read", hint="write 'ppl<=+2%', 'kl<=0.02', 'psnr>=45' or 'class_accuracy>=-1%'"
        )
    measure = _measure(match["name"], workload)
    name, upper, percent = measure.budget_name, match["sign"] == "<=", bool(match["percent"])
    if upper == measure.higher_is_better:
        raise ConfigError(
            f"budget {text!r} limits {name} from the wrong side",
            hint=f"write {name}{'>=' if measure.higher_is_better else '<='}...",
        )
    if measure.unit == "increase" and not percent:
        raise ConfigError(
            f"budget {text!r} needs a percent sign", hint=f"{name} is limited relative to PyTorch's: '{name}<=+0.5%'"
        )
    if measure.unit == "decibels" and percent:
        raise ConfigError(f"budget {text!r} is in decibels", hint=f"write it without the percent sign: '{name}>=45'")
    signed = match["value"][0] in "+-"
    if percent and not signed and measure.unit == "number":
        raise ConfigError(
            f"budget {text!r}: {name} is no share", hint=f"write '{name}{match['sign']}+5%' for 5 % of PyTorch's own"
        )
    if percent and not measure.is_task and (signed or measure.unit == "number") and measure.unit != "increase":
        raise ConfigError(
            f"budget {text!r}: {name} is not relative to PyTorch's own, which has none",
            hint=f"write '{name}{match['sign']}{'95%' if measure.unit == 'share' else '0.02'}'",
        )
    limit = float(match["value"]) / (100 if percent else 1)
    if not math.isfinite(limit):
        raise ConfigError(f"budget {text!r} has a limit that is not finite")
    return Budget(
        text=text.strip(),
        measure=measure.name,
        upper=upper,
        limit=limit,
        relative=percent and signed and measure.is_task,
        unit=measure.unit,
        tolerance=measure.limit,
    )


def _measure(name: str, workload: Workload | None) -> Measure:
    workloads = (*WORKLOADS.values(), *(() if workload is None else (workload,)))
    known: dict[str, Measure] = {measure.budget_name: measure for each in workloads for measure in each.measures}
    if name not in known:
        raise UnknownNameError("measure in a budget", name, known)
    return known[name]


def check_measures(budgets: Iterable[Budget], workload: Workload) -> None:
    """Check that every budget limits a measure of the kind of pipeline.

    Raises:
        ConfigError: lists what it has.
    """
    names = {measure.name: measure.budget_name for measure in workload.measures}
    for budget in budgets:
        if budget.measure not in names:
            raise ConfigError(
                f"the budget {budget.text!r} limits {budget.measure!r}, which is not measured for this model",
                hint=f"measured for it: {', '.join(names.values())}",
            )


def holds(budgets: Iterable[Budget], scores: Scores) -> bool:
    """Check whether every budget is kept."""
    return all(budget.holds(scores) for budget in budgets)


def shown(budgets: Iterable[Budget], scores: Scores) -> str:
    """Format every budget with its measured value."""
    return ", ".join(f"{b.measure} {b.value(scores):.5g} ({b.text})" for b in budgets)


def measured_noise(budget: Budget, scores: Scores) -> float | None:
    """Compute the noise that a measured value stands for: of independent causes it adds up.

    Returns:
        Of decibels, noise over signal; of a loss, its increase; None of another unit, which says nothing about it.
    """
    return _noise_at(budget, budget.value(scores))


def limit_noise(budget: Budget) -> float | None:
    """Compute the noise at which a budget would just hold; see `measured_noise`."""
    return _noise_at(budget, budget.limit)


def _noise_at(budget: Budget, value: float) -> float | None:
    if math.isnan(value):
        return math.inf
    if budget.unit == "decibels":
        return float(10 ** (-value / 10))
    return max(value, 0.0) if budget.unit == "increase" else None


def allowed_noise(budgets: Iterable[Budget], scores: Scores, noise: float) -> float | None:
    """Estimate from one measured mix the noise at which every budget would just hold.

    Decibels fall by one for every decibel of noise; an increase in a loss is, while small, in proportion to the noise
    (the second-order term of the loss).

    Returns:
        Relative noise of the outputs; None where a measure says nothing about it.
    """
    found = []
    for budget in budgets:
        value = budget.value(scores)
        if budget.unit == "decibels":
            found.append(noise * 10 ** ((value - budget.limit) / 10))
        elif budget.unit == "increase" and value > 0 and budget.limit > 0:
            found.append(noise * budget.limit / value)
        else:
            return None
    return min(found, default=None)
