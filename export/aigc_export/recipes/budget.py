"""Quality budgets: how much worse than PyTorch a mix of precisions may be.

`ppl<=+0.5%`, `psnr>=45`, `class_accuracy>=-1%`: a measure, a direction, a limit. A limit with a sign and a percent
sign is relative to PyTorch's own value; one with a percent sign alone is a share (`class_accuracy>=95%` is 0.95).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aigc_models.evaluation.paired import Scores
from aigc_models.evaluation.quality import HIGHER_IS_BETTER
from aigc_runtime.errors import ConfigError, UnknownNameError

__all__ = ["DEFAULT_BUDGETS", "Budget", "allowed_noise", "check_family", "holds", "parse_budget", "shown"]

PAIRED_NAMES: Mapping[str, str] = MappingProxyType(
    {"ppl": "ppl_increase", "top1": "top1_agreement", "psnr": "psnr_db", "step_sqnr": "step_sqnr_db"}
)
"""Name in a budget -> paired measure."""

DEFAULT_BUDGETS: Mapping[str, str] = MappingProxyType(
    {"text": "ppl<=+0.1%", "diffusion": "psnr>=45", "gan": "psnr>=51"}
)
"""family -> budget of `--precision auto`."""

FAMILY_MEASURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "text": ("ppl_increase", "top1_agreement", "bits_per_byte"),
        "diffusion": ("psnr_db", "step_sqnr_db", "class_accuracy", "frechet_distance"),
        "gan": ("psnr_db", "class_accuracy", "frechet_distance"),
    }
)
"""family -> what can be measured on it; the models' own metrics only where one knows their data."""

_SHARES = frozenset({"class_accuracy"})
"""Measures of a model's own that are shares of one."""

_FORM = re.compile(
    r"(?P<name>[a-z0-9_]+)\s*(?P<sign><=|>=)\s*(?P<value>[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?)\s*(?P<percent>%?)"
)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A limit on one measure.

    Attributes:
        text: as it was written.
        measure: a paired measure, or one of the models' own.
        upper: whether the limit is the largest allowed value; else the smallest.
        limit: a number; for `relative`, of value / PyTorch's - 1.
        relative: to PyTorch's value.
    """

    text: str
    measure: str
    upper: bool
    limit: float
    relative: bool

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
                return result.bundle / result.reference - 1 if self.relative else result.bundle
        measured = [m.name for m in scores.paired] + [q.metric for q in scores.quality]
        raise ConfigError(
            f"the budget {self.text!r} limits {self.measure!r}, which is not measured for this model",
            hint=f"measured for it: {', '.join(measured)}",
        )

    def holds(self, scores: Scores) -> bool:
        """Check whether a candidate keeps the budget; NaN never does."""
        value = self.value(scores)
        return value <= self.limit if self.upper else value >= self.limit


def parse_budget(text: str) -> Budget:
    """Read a budget.

    >>> parse_budget("ppl<=+0.5%").limit
    0.005

    Raises:
        ConfigError: not of the form `measure <= limit` or `measure >= limit`, or a limit in the wrong direction.
        UnknownNameError: an unknown measure.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"budget {text!r} cannot be read", hint="write 'ppl<=+0.5%', 'psnr>=45' or 'class_accuracy>=-1%'"
        )
    name = match["name"]
    if name not in PAIRED_NAMES and name not in HIGHER_IS_BETTER:
        raise UnknownNameError("measure in a budget", name, [*PAIRED_NAMES, *HIGHER_IS_BETTER])
    measure = PAIRED_NAMES.get(name, name)
    upper = match["sign"] == "<="
    lower_is_better = measure == "ppl_increase" or HIGHER_IS_BETTER.get(measure) is False
    if upper != lower_is_better:
        raise ConfigError(
            f"budget {text!r} limits {name} from the wrong side",
            hint=f"write {name}{'<=' if lower_is_better else '>='}...",
        )
    percent = bool(match["percent"])
    if name == "ppl" and not percent:
        raise ConfigError(
            f"budget {text!r} needs a percent sign", hint="perplexity is limited relative to PyTorch's: 'ppl<=+0.5%'"
        )
    if name in {"psnr", "step_sqnr"} and percent:
        raise ConfigError(f"budget {text!r} is in decibels", hint=f"write it without the percent sign: '{name}>=45'")
    signed = match["value"][0] in "+-"
    if percent and not signed and name in HIGHER_IS_BETTER and name not in _SHARES:
        raise ConfigError(
            f"budget {text!r}: {name} is no share", hint=f"write '{name}{match['sign']}+5%' for 5 % of PyTorch's own"
        )
    limit = float(match["value"]) / (100 if percent else 1)
    if not math.isfinite(limit):
        raise ConfigError(f"budget {text!r} has a limit that is not finite")
    return Budget(
        text=text.strip(),
        measure=measure,
        upper=upper,
        limit=limit,
        relative=percent and signed and name in HIGHER_IS_BETTER,
    )


def check_family(budgets: Iterable[Budget], family: str) -> None:
    """Check that every budget limits a measure of the family.

    Raises:
        ConfigError: lists what it has.
    """
    measures, written = FAMILY_MEASURES[family], {measure: name for name, measure in PAIRED_NAMES.items()}
    for budget in budgets:
        if budget.measure not in measures:
            raise ConfigError(
                f"the budget {budget.text!r} limits {budget.measure!r}, which is not measured for this model",
                hint=f"measured for it: {', '.join(written.get(m, m) for m in measures)}",
            )


def holds(budgets: Iterable[Budget], scores: Scores) -> bool:
    """Check whether every budget is kept."""
    return all(budget.holds(scores) for budget in budgets)


def shown(budgets: Iterable[Budget], scores: Scores) -> str:
    """Format every budget with its measured value."""
    return ", ".join(f"{b.measure} {b.value(scores):.5g} ({b.text})" for b in budgets)


def allowed_noise(budgets: Iterable[Budget], scores: Scores, noise: float) -> float | None:
    """Estimate from one measured mix the noise at which every budget would just hold.

    Decibels fall by one for every decibel of noise; an increase in perplexity is, while small, in proportion to the
    noise (the second-order term of the loss).

    Returns:
        Relative noise of the outputs; None where a measure says nothing about it.
    """
    found = []
    for budget in budgets:
        value = budget.value(scores)
        if budget.measure in {"psnr_db", "step_sqnr_db"}:
            found.append(noise * 10 ** ((value - budget.limit) / 10))
        elif budget.measure == "ppl_increase" and value > 0 and budget.limit > 0:
            found.append(noise * budget.limit / value)
        else:
            return None
    return min(found, default=None)
