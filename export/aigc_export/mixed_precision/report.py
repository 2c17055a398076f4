"""The report of a search: every candidate with its quality, time and size, and every site."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aigc_calibration.search.sensitivity import Sensitivity
from aigc_export.recipes.budget import Budget
from aigc_models.evaluation.paired import Scores
from aigc_runtime.io.jsonable import to_json

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["CandidateReport", "SearchReport", "pareto_front", "pareto_table"]

_OF_THE_RUN = ("evaluated", "reused", "seconds")


@dataclass(frozen=True, kw_only=True)
class CandidateReport:
    """One candidate.

    Attributes:
        name: for people.
        precision: as in the manifest.
        counts: precision -> number of sites.
        scores: beside PyTorch.
        value: what the first budget is held against.
        holds: whether all budgets are kept.
        latency_ms: of a step at batch 1.
        speedup: over fp32, median over paired rounds.
        size_bytes: of the engine.
        pareto: whether no other candidate is at least as good in quality, time and size, and better in one.
        chosen: whether it is the result.
    """

    name: str
    precision: str
    counts: Mapping[str, int]
    scores: Scores
    value: float
    holds: bool
    latency_ms: float
    speedup: float
    size_bytes: int
    pareto: bool
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """The report of a search.

    Attributes:
        model: its name.
        target: of the engine.
        objective: what was minimized.
        budgets: that had to hold.
        verdict: what was chosen, and why, in one sentence.
        candidates: in the order of their latency.
        pairs: pair of precisions -> its sites, the noisiest first.
        kept: node -> one sentence, for the sites of the result that stand in higher precision.
        evaluated: candidates that were really run.
        reused: measurements that an earlier run had left.
        seconds: of the search.
    """

    model: str
    target: str
    objective: str
    budgets: tuple[Budget, ...]
    verdict: str
    candidates: tuple[CandidateReport, ...]
    pairs: Mapping[str, tuple[Sensitivity, ...]]
    kept: Mapping[str, str]
    evaluated: int
    reused: int
    seconds: float

    def dump(self) -> bytes:
        """Serialize as JSON without run-specific fields: a search that goes on from a journal gives the same bytes."""
        found = {name: value for name, value in to_json(self).items() if name not in _OF_THE_RUN}
        return (json.dumps(found, indent=1, allow_nan=False) + "\n").encode()


def pareto_front(points: Sequence[tuple[float, ...]]) -> list[bool]:
    """For each point, whether no other is at most as large everywhere and smaller somewhere.

    >>> pareto_front([(1.0, 3.0), (2.0, 2.0), (2.0, 4.0), (1.0, 3.0)])
    [True, True, False, True]
    """

    def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    return [not any(beats(other, point) for other in points) for point in points]


def pareto_table(report: SearchReport) -> Table:
    """Make a table of the candidates."""
    from rich.table import Table

    budgets = ", ".join(b.text for b in report.budgets)
    table = Table(title=f"{report.model} · {report.target} · auto · {budgets}", title_justify="left")
    for heading in ("candidate", report.budgets[0].measure, "budget", "ms a step", "over fp32", "size", ""):
        table.add_column(heading, overflow="fold")
    for c in report.candidates:
        marks = [m for m, there in (("pareto", c.pareto), ("[green]chosen[/]", c.chosen)) if there]
        table.add_row(
            c.name,
            _with_error(report.budgets[0], c),
            "[green]kept[/]" if c.holds else "[red]missed[/]",
            f"{c.latency_ms:.3f}",
            f"{c.speedup:.2f}x",
            f"{c.size_bytes / 1e6:.2f} MB",
            ", ".join(marks),
        )
    return table


def _with_error(budget: Budget, candidate: CandidateReport) -> str:
    error = next((m.standard_error for m in candidate.scores.paired if m.name == budget.measure), 0.0)
    return f"{candidate.value:.4g}" + (f" ± {error:.2g}" if error else "")
