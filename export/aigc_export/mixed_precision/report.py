"""The report of a search: every candidate with its quality, time and size, and every site or part."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aigc_calibration.search.sensitivity import Sensitivity
from aigc_export.recipes.budget import Budget
from aigc_models.evaluation.paired import Scores
from aigc_runtime.io.jsonable import to_json

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["CandidateReport", "PartReport", "SearchReport", "Timed", "pareto_front", "pareto_table", "part_table"]

_OF_THE_RUN = ("evaluated", "reused", "seconds")

Timed = Literal["step", "generation"]
"""What the milliseconds of a candidate are of: one step at batch 1, or all runs of all engines in one generation."""


@dataclass(frozen=True, kw_only=True)
class CandidateReport:
    """One candidate.

    Attributes:
        name: for people.
        precision: as in the manifest.
        counts: precision -> number of sites, or of parts where each has one.
        scores: beside PyTorch.
        value: what the first budget is held against.
        holds: whether all budgets are kept.
        latency_ms: of what `SearchReport.timed` says.
        speedup: over fp32, median over paired rounds.
        size_bytes: of the engine, or of all.
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
class PartReport:
    """One part of a program in one precision, all other parts in the highest that they may have.

    Attributes:
        part: its name.
        precision: in which it is built.
        runs: of its engine in one generation.
        latency_ms: of these runs.
        saved_ms: what they take less than in fp32; 0 where the part has one precision alone.
        saved_ms_error: standard error of that.
        size_bytes: of the engine.
        scores: of the whole pipeline beside PyTorch.
        value: what the first budget is held against.
        noise: that it adds to the results, as the sum over parts takes it.
        holds: whether all budgets are kept.
        chosen: whether the part has this precision in the result.
    """

    part: str
    precision: str
    runs: int
    latency_ms: float
    saved_ms: float
    saved_ms_error: float
    size_bytes: int
    scores: Scores
    value: float
    noise: float
    holds: bool
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
        kept: node or part -> one sentence, for what of the result stands in higher precision.
        evaluated: candidates that were really run.
        reused: measurements that an earlier run had left.
        seconds: of the search.
        timed: what the milliseconds of candidates are of.
        parts: of a program of several parts, each in each precision that was tried; else empty.
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
    timed: Timed = "step"
    parts: tuple[PartReport, ...] = ()

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
    for heading in ("candidate", report.budgets[0].measure, "budget", f"ms a {report.timed}", "over fp32", "size", ""):
        table.add_column(heading, overflow="fold")
    for c in report.candidates:
        marks = [m for m, there in (("pareto", c.pareto), ("[green]chosen[/]", c.chosen)) if there]
        table.add_row(
            c.name,
            _with_error(report.budgets[0], c.value, c.scores),
            "[green]kept[/]" if c.holds else "[red]missed[/]",
            f"{c.latency_ms:.3f}",
            f"{c.speedup:.2f}x",
            f"{c.size_bytes / 1e6:.2f} MB",
            ", ".join(marks),
        )
    return table


def part_table(report: SearchReport) -> Table:
    """Make a table of the parts, each in each precision with all others left as they are."""
    from rich.table import Table

    table = Table(title=f"{report.model} · each part alone", title_justify="left")
    for heading in ("part", "precision", report.budgets[0].measure, "budget", "runs", "ms a generation", "size", ""):
        table.add_column(heading, overflow="fold")
    for one in report.parts:
        table.add_row(
            one.part,
            one.precision,
            _with_error(report.budgets[0], one.value, one.scores),
            "[green]kept[/]" if one.holds else "[red]missed[/]",
            str(one.runs),
            f"{one.latency_ms:.3f}",
            f"{one.size_bytes / 1e6:.2f} MB",
            "[green]chosen[/]" if one.chosen else "",
        )
    return table


def _with_error(budget: Budget, value: float, scores: Scores) -> str:
    error = next((m.standard_error for m in scores.paired if m.name == budget.measure), 0.0)
    return f"{value:.4g}" + (f" ± {error:.2g}" if error else "")
