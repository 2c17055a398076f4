"""Mixes of two precisions: which groups of sites fit into the budget together, by real runs of few of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aigc_calibration.coverage import Executed
from aigc_calibration.errors import PlanError
from aigc_calibration.search.pair import PrecisionPair
from aigc_calibration.search.sensitivity import (
    CONFIDENCE_SIGMAS,
    Groups,
    Sensitivity,
    decibels,
    fallback_order,
    fitting_last,
    total_noise,
)
from aigc_export.mixed_precision.candidates import Built, CandidateEvaluator, build_mix
from aigc_export.mixed_precision.descent import smallest
from aigc_export.prepare.prepare import Stage
from aigc_export.recipes.budget import allowed_noise, holds, shown
from aigc_export.recipes.search import SearchConfig
from aigc_models.evaluation.paired import Scores

__all__ = ["Mixes"]

MOST_GONE_AROUND = 3
"""Groups that may turn out to spend the budget alone; each takes two runs."""


@dataclass
class Mixes:
    """The mixes of a pair that are tried.

    Attributes:
        pair: plans in both precisions.
        sites: what each costs and gains.
        macs: of the sites.
        config: budget and objective.
        evaluator: judges a mix.
        executed: of the target.
        stage: called after every mix.
        order: groups of sites, those that stay in high precision first.
        fixed: how many of them always do.
        tried: sites in high precision -> the mix, and what it is worth.
    """

    pair: PrecisionPair
    sites: Sequence[Sensitivity]
    macs: Mapping[str, int]
    config: SearchConfig
    evaluator: CandidateEvaluator
    executed: Executed
    stage: Stage
    order: list[tuple[str, ...]] = field(init=False)
    fixed: int = field(init=False)
    tried: dict[frozenset[str], tuple[Built, Scores]] = field(init=False, default_factory=dict)
    _free: Groups = field(init=False)

    def __post_init__(self) -> None:
        self._free, rest = fallback_order(self.sites, self.config.objective, self.pair.together)
        self.order, self.fixed = [*self._free, *rest], len(self._free)

    def descend(self) -> list[tuple[Built, Scores]]:
        """Run mixes, down to the fewest groups in high precision that keep the budget.

        The first mix has in low precision whatever gains by it. What it makes of the budget says which groups fit into
        it together; from there on the others go first. The group that then gains most for its noise is run alone: where
        it misses, its noise says too little of what it does to the budget, and it stays in high precision, too.

        Returns:
            All mixes that were run, those with most sites in low precision first.
        """
        gone = 0
        while not self._keeps(self.fixed) and self.fixed + 1 < len(self.order) and gone < MOST_GONE_AROUND:
            self._order_by_fit()
            if self._keeps(len(self.order) - 1) or frozenset(self._nodes(len(self.order) - 1)) not in self.tried:
                break
            self.order.insert(self.fixed, self.order.pop())
            self.fixed, gone = self.fixed + 1, gone + 1
        smallest(self.fixed, len(self.order), self._order_by_fit, self._keeps)
        # Both ends are plain precisions, which a mix has to beat; the upper end of a pair to float is fp32.
        for end in (0, *(() if self.pair.high is None else (len(self.order),))):
            self._keeps(end)
        return [self.tried[high] for high in sorted(self.tried, key=lambda high: (len(high), sorted(high)))]

    def _nodes(self, count: int) -> list[str]:
        return [node for group in self.order[:count] for node in group]

    def _keeps(self, count: int) -> bool:
        """Whether the mix with the first groups in high precision keeps the budget."""
        nodes = self._nodes(count)
        high = frozenset(nodes)
        if high in self.tried:
            return holds(self.config.budgets, self.tried[high][1])
        if count == len(self.order) and self.pair.high is None:
            return True  # that is fp32
        costless = {node for group in self._free for node in group} & high
        by_node = {site.node: site for site in self.sites}
        kept_high = {node: _why(by_node[node], node in costless, self.config) for node in nodes}
        try:
            built = build_mix(self.pair, kept_high, self.macs, self.executed)
        except PlanError as err:  # the few sites that are left are none that the engine runs in low precision
            self.stage("try", f"{self.pair.name}, {len(kept_high)} kept high: {err.message}")
            return False
        scores = self.evaluator.evaluate(built)
        self.tried[high] = (built, scores)
        kept = holds(self.config.budgets, scores)
        self.stage(
            "try",
            f"{built.name}: {shown(self.config.budgets, scores)}, model {decibels(self._noise(count)):.1f} dB, "
            f"{'kept' if kept else 'missed'}",
        )
        return kept

    def _noise(self, count: int) -> float:
        return total_noise({site.node: site.noise for site in self.sites}, self._nodes(count))

    def _order_by_fit(self) -> int:
        """Put first what does not fit into the budget, by what the mix with the fewest in high precision makes of it.

        Returns:
            How many groups then have to stay in high precision.
        """
        first = self.tried.get(frozenset(self._nodes(self.fixed)))
        if first is None:
            return len(self.order)
        allowed = allowed_noise(self.config.budgets, first[1], self._noise(self.fixed))
        if allowed is None:
            return (self.fixed + len(self.order)) // 2
        noise = {site.node: site.noise for site in self.sites}
        high, low = fitting_last(tuple(self.order[self.fixed :]), noise, allowed)
        self.order[self.fixed :] = [*high, *low]
        return self.fixed + len(high)


def _why(site: Sensitivity, free: bool, config: SearchConfig) -> str:
    noise = f"{site.share:.1%} of all noise ({site.sqnr_db:.1f} dB alone)"
    if free:
        return f"low precision would take {-site.saved_ms:.3f} ms longer, and make {noise}"
    is_faster = site.saved_ms > CONFIDENCE_SIGMAS * site.saved_ms_error
    saved = {
        "latency": f"{site.saved_ms:.3f} ms" if is_faster else "no measurable time",
        "size": f"{site.saved_bytes / 1e3:.1f} kB",
        "ops": "one site",
    }[config.objective]
    return f"low precision would make {noise} and save {saved}"
