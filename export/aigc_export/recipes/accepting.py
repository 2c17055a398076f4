"""Write the budget under which what was measured would be published."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from aigc_export.recipes.budget import Budget
from aigc_export.recipes.tolerances import LOOSEST_DROP
from aigc_export.workloads.base import Workload
from aigc_export.workloads.measures import Measure
from aigc_models.evaluation.paired import Scores
from aigc_runtime.proof.paired import PairedMetric

__all__ = ["accepting_budget", "accepting_option"]

CONFIDENCE = 2.0
"""Standard errors of room in a budget that is proposed: other samples give other values."""
LOOSEST_KL = 100.0


def accepting_option(budgets: Iterable[Budget], scores: Scores, workload: Workload) -> str | None:
    """Write the options with which measured values keep all budgets: those that hold as they are, wider ones else.

    Args:
        budgets: of which some are missed.
        scores: what was measured.
        workload: of the kind of pipeline.

    Returns:
        Options of a command line; None where a missed budget limits what is not measured in pairs.
    """
    measures = {measure.name: measure for measure in workload.measures}
    paired = {metric.name: metric for metric in scores.paired}
    words = []
    for budget in budgets:
        if budget.holds(scores):
            words.append(budget.text)
            continue
        if budget.measure not in paired or budget.measure not in measures:
            return None
        wider = accepting_budget(paired[budget.measure], measures[budget.measure])
        if wider is None:
            return None
        words.append(wider)
    return " ".join(f'--budget "{word}"' for word in words)


def accepting_budget(metric: PairedMetric, measure: Measure) -> str | None:
    """Write the budget that a measured value keeps, with two standard errors of room; None where there is none."""
    room = CONFIDENCE * metric.standard_error
    if measure.higher_is_better:
        limit = _rounded(metric.value - room, math.floor)
        return f"{measure.budget_name}>={limit:g}" if limit > 0 else None
    limit = _rounded(metric.value + room, math.ceil)
    if measure.unit == "increase":
        return f"{measure.budget_name}<=+{100 * limit:g}%" if limit <= LOOSEST_DROP else None
    return f"{measure.budget_name}<={limit:g}" if math.isfinite(limit) and limit <= LOOSEST_KL else None


def _rounded(value: float, towards: Callable[[float], int]) -> float:
    """Round to two digits.

    >>> _rounded(0.1234, math.ceil), _rounded(0.987, math.floor)
    (0.13, 0.98)
    """
    if value <= 0:
        return value
    digits = 1 - math.floor(math.log10(value))
    return round(towards(value * 10.0**digits) / 10.0**digits, digits)
