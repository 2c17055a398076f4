"""Change limits: loosen them under a budget, or put the user's own in their place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aigc_export.recipes.budget import Budget
from aigc_export.workloads.base import Workload
from aigc_runtime.bundle.manifest import Tolerances
from aigc_runtime.errors import ConfigError, UnknownNameError

__all__ = ["loosened", "parse_limits", "searched_limits", "with_budgets", "with_user_limits"]

LOOSEST_DB, LOOSEST_DROP = 1.0, 10.0
"""However wide a budget, what is published is not mere noise."""

DECIBELS_HEADROOM, LOSS_HEADROOM = 10.0, 3.0
"""Room of a single case beyond the budget, which limits an average: 10 dB for images, as much as the workloads' limits
leave below the measured values; a factor of 3 for a relative loss."""


def loosened(tolerances: Tolerances, budgets: Iterable[Budget]) -> Tolerances:
    """Loosen limits for a mix that was searched under budgets: no limit forbids what the user allows.

    The budgets themselves are checked beside these. Where one is looser than the limit of its measure, or nearer to it
    than a single case may lie from the average, the limits give way by as much noise: decibels fall by it, relative
    losses grow with it, as in `budget.allowed_noise`.
    """
    average = case = 1.0
    limits = tolerances.limits()
    for budget in budgets:
        limit = None if budget.tolerance is None else limits.get(budget.tolerance)
        if budget.unit == "decibels" and limit is not None:
            noise, headroom = 10 ** ((limit - budget.limit) / 10), DECIBELS_HEADROOM
        elif tolerances.max_quality_drop is not None and (budget.relative or budget.unit == "increase"):
            noise, headroom = abs(budget.limit) / tolerances.max_quality_drop, LOSS_HEADROOM
        else:
            continue
        average, case = max(average, noise), max(case, noise * headroom)
    if case == 1.0:
        return tolerances
    slack, tensor = 10 * math.log10(case), tolerances.tensor
    sqnr, psnr = tensor.min_sqnr_db, tolerances.min_psnr_db
    agreement, drop = tolerances.min_token_agreement, tolerances.max_quality_drop
    return Tolerances(
        # A cosine says the same as a ratio of signal to noise, which stays.
        tensor=replace(tensor, min_cosine=None, min_sqnr_db=None if sqnr is None else max(sqnr - slack, LOOSEST_DB)),
        min_token_agreement=None if agreement is None else agreement / case,
        min_psnr_db=None if psnr is None else max(psnr - slack, LOOSEST_DB),
        max_quality_drop=None if drop is None else min(drop * average, LOOSEST_DROP),
    )


def with_budgets(tolerances: Tolerances, budgets: Sequence[Budget], workload: Workload) -> Tolerances:
    """Put budgets in place of the limits on the model's own quality: what the user states, and nothing else, decides.

    Budgets on what no tolerance limits leave the limits as they are; they are checked beside them.
    """
    stated = {budget.tolerance: budget.limit for budget in budgets if budget.tolerance is not None}
    if not stated:
        return tolerances
    limits: dict[str, Any] = {measure.limit: None for measure in workload.measures if measure.limit is not None}
    return replace(tolerances, **{**limits, **stated})


def searched_limits(
    base: str, budgets: Sequence[Budget], chosen: Mapping[str, float], workload: Workload
) -> Tolerances:
    """Make the limits of what a search under budgets has found.

    Args:
        base: the lowest precision in it.
        budgets: that it keeps.
        chosen: limits of the user's own, by name.
        workload: of the kind.
    """
    own = workload.limits(base)
    limits = with_budgets(own, budgets, workload) if workload.quality_decides else loosened(own, budgets)
    return with_user_limits(limits, chosen, workload)


def with_user_limits(tolerances: Tolerances, chosen: Mapping[str, float], workload: Workload) -> Tolerances:
    """Replace limits by those that the user chose, and mark them as such.

    Args:
        tolerances: of the kind and precision.
        chosen: name of a limit -> value.
        workload: of the kind.

    Raises:
        UnknownNameError: no such limit.
        ConfigError: a limit on what the kind does not make, or one that can never fail or never hold.
    """
    known = tolerances.limits()
    for name in chosen:
        if name not in known:
            raise UnknownNameError("limit", name, known)
        if name in workload.foreign_limits:
            valid = [n for n in known if n not in workload.foreign_limits]
            raise ConfigError(
                f"the limit {name} means nothing to a {workload.kind} model", hint=f"valid: {', '.join(valid)}"
            )
    of_tensors = {name: value for name, value in chosen.items() if name in vars(tolerances.tensor)}
    others = {name: value for name, value in chosen.items() if name not in of_tensors}
    return replace(
        tolerances,
        tensor=replace(tolerances.tensor, **of_tensors),
        set_by_user=tuple(dict.fromkeys((*tolerances.set_by_user, *sorted(chosen)))),
        **others,
    )


def parse_limits(texts: Iterable[str]) -> dict[str, float]:
    """Read limits as written on a command line.

    >>> parse_limits(["min_sqnr_db=60", "min_cosine=0.9"])
    {'min_sqnr_db': 60.0, 'min_cosine': 0.9}

    Raises:
        ConfigError: not of the form NAME=VALUE, or a name twice.
    """
    limits: dict[str, float] = {}
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        try:
            number = float(value)
        except ValueError as err:
            raise ConfigError(f"the limit {text!r} cannot be read", hint="write NAME=VALUE: min_sqnr_db=60") from err
        if name in limits:
            raise ConfigError(f"the limit {name} is given twice", hint="leave one out")
        limits[name] = number
    return limits
