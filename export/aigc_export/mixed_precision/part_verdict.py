"""Choose the precision of every part from what was run, and say why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aigc_export.mixed_precision.combinations import MIN_SHARE
from aigc_export.mixed_precision.report import CandidateReport, PartReport, pareto_front
from aigc_export.mixed_precision.search import MIN_GAIN
from aigc_export.recipes.budget import Budget, holds, measured_noise, shown
from aigc_export.recipes.part_precisions import precisions_text
from aigc_export.recipes.search import Objective
from aigc_models.evaluation.paired import Scores

__all__ = ["PartOption", "Tried", "candidate_reports", "choose", "kept_parts", "part_reports"]


@dataclass(frozen=True, kw_only=True)
class PartOption:
    """A part in one precision, measured alone.

    Attributes:
        part: its name.
        precision: that it is in.
        cost: by the objective; a time that cannot be told from that of the base counts as the same.
        noise: that it adds to the results.
        runs: of its engine in one generation.
        ms: that they take.
        saved_ms: that they take less than the base.
        saved_ms_error: standard error of that.
        size_bytes: of the engine.
        float_sites: number of sites that stay in float.
        scores: of the whole pipeline with this part alone in it.
    """

    part: str
    precision: str
    cost: float
    noise: float
    runs: int
    ms: float
    saved_ms: float
    saved_ms_error: float
    size_bytes: int
    float_sites: int
    scores: Scores


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A whole pipeline that was run.

    Attributes:
        options: part -> the option that it is in.
        scores: beside PyTorch.
    """

    options: Mapping[str, PartOption]
    scores: Scores

    @property
    def name(self) -> str:
        """As `--precision` takes it."""
        return precisions_text({part: option.precision for part, option in self.options.items()})

    @property
    def cost(self) -> float:
        """By the objective."""
        return sum(option.cost for option in self.options.values())

    @property
    def ms(self) -> float:
        """Milliseconds of all engines in one generation."""
        return sum(option.ms for option in self.options.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of all engines."""
        return sum(option.size_bytes for option in self.options.values())

    @property
    def float_sites(self) -> int:
        """Sites of all parts that stay in float."""
        return sum(option.float_sites for option in self.options.values())


def choose(
    tried: Sequence[Tried], budgets: Sequence[Budget], counted: Budget, objective: Objective
) -> tuple[Tried, str]:
    """Choose the cheapest that keeps the budget; of those that cost nearly the same, the most exact.

    Args:
        tried: what was run, the base first, which keeps the budget.
        budgets: that must all hold.
        counted: says what is exact.
        objective: of the costs.

    Returns:
        The result, and the reason.
    """
    base = tried[0]
    able = [one for one in tried if holds(budgets, one.scores)]
    cheapest = min(able, key=lambda one: one.cost)
    worth = base.cost / MIN_GAIN if objective == "latency" else (1 - MIN_SHARE) * base.cost
    if len(tried) == 1:
        return base, f"{base.name}: no part can be in a lower precision, {shown(budgets, base.scores)}"
    if cheapest.cost > worth:
        why = "keeps the budget" if len(able) == 1 else f"keeps the budget and is better in {objective}"
        return base, f"{base.name}: nothing lower {why}, {shown(budgets, base.scores)}"
    near = [one for one in able if (1 - MIN_SHARE) * one.cost <= cheapest.cost]
    best = min(near, key=lambda one: (measured_noise(counted, one.scores), one.cost, one.name))
    gain = {
        "latency": f"{base.ms / best.ms if best.ms else 1:.2f}x as fast as {base.name} in the engines",
        "size": f"{best.size_bytes / base.size_bytes:.0%} of the bytes of {base.name}",
        "ops": f"{best.float_sites} of {base.float_sites} sites in float",
    }[objective]
    return best, f"{best.name}: {gain}, with {shown(budgets, best.scores)}"


def candidate_reports(tried: Sequence[Tried], chosen: Tried, budgets: Sequence[Budget]) -> tuple[CandidateReport, ...]:
    """Report what was run, in the order of its time."""
    first, base = budgets[0], tried[0]
    sign = 1.0 if first.upper else -1.0
    front = pareto_front([(sign * first.value(one.scores), one.ms, float(one.size_bytes)) for one in tried])
    reports = [
        CandidateReport(
            name=one.name,
            precision=precision if "=" not in (precision := one.name) else "mixed",
            counts=_counts(one),
            scores=one.scores,
            value=first.value(one.scores),
            holds=holds(budgets, one.scores),
            latency_ms=one.ms,
            speedup=base.ms / one.ms if one.ms else 1.0,
            size_bytes=one.size_bytes,
            pareto=on_front,
            chosen=one is chosen,
        )
        for one, on_front in zip(tried, front, strict=True)
    ]
    return tuple(sorted(reports, key=lambda r: (r.latency_ms, r.name)))


def _counts(one: Tried) -> dict[str, int]:
    used = [option.precision for option in one.options.values()]
    return {precision: used.count(precision) for precision in dict.fromkeys(used)}


def part_reports(
    options: Mapping[str, Sequence[PartOption]], chosen: Tried, budgets: Sequence[Budget]
) -> tuple[PartReport, ...]:
    """Report every part in every precision that was run."""
    return tuple(
        PartReport(
            part=part,
            precision=one.precision,
            runs=one.runs,
            latency_ms=one.ms,
            saved_ms=one.saved_ms,
            saved_ms_error=one.saved_ms_error,
            size_bytes=one.size_bytes,
            scores=one.scores,
            value=budgets[0].value(one.scores),
            noise=one.noise,
            holds=holds(budgets, one.scores),
            chosen=one is chosen.options[part],
        )
        for part, own in options.items()
        for one in own
    )


def kept_parts(
    options: Mapping[str, Sequence[PartOption]],
    refused: Mapping[str, Sequence[str]],
    chosen: Tried,
    budgets: Sequence[Budget],
) -> dict[str, str]:
    """Say of every part of the result why it is in no other precision that would cost less, or that was thought to.

    Args:
        options: of every part, that of the base first.
        refused: part -> why other precisions were not even run.
        chosen: the result.
        budgets: that it keeps.
    """
    kept = {}
    for part, own in options.items():
        taken = chosen.options[part]
        reasons = [why for one in own if one is not taken and (why := _why_not(one, taken, chosen.cost, budgets))]
        if reasons := [*reasons, *refused.get(part, ())]:
            kept[part] = f"{taken.precision}: {'; '.join(reasons)}"
    return kept


def _why_not(one: PartOption, taken: PartOption, total: float, budgets: Sequence[Budget]) -> str:
    """Say why a part does not have a precision; empty where what it has costs less."""
    quality = shown(budgets, one.scores)
    if one.cost > taken.cost or (one.cost == taken.cost and one.noise <= taken.noise):
        return "" if taken.noise else f"{one.precision} costs more"
    if one.cost == taken.cost:
        return f"{one.precision} would cost as much, and give {quality}"
    if not holds(budgets, one.scores):
        return f"{one.precision} alone gives {quality}, which misses the budget"
    if taken.cost - one.cost < MIN_SHARE * total:
        return f"{one.precision} would save less than {MIN_SHARE:.0%} of the whole, and alone give {quality}"
    return f"{one.precision} alone gives {quality}; nothing with it that was run costs less and keeps the budget"
