"""How a search ends: with its report in files, or with an error that says what could be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aigc_export.mixed_precision.plots import pareto_plot
from aigc_export.mixed_precision.report import SearchReport
from aigc_export.prepare.prepare import Stage
from aigc_export.recipes.accepting import accepting_option
from aigc_export.recipes.budget import Budget, shown
from aigc_export.workloads.base import Workload
from aigc_models.evaluation.paired import Scores
from aigc_runtime.errors import EngineMissingError, ParityError
from aigc_runtime.io.publish import atomic_write_bytes

__all__ = ["BudgetError", "unkept", "write_report"]


class BudgetError(ParityError):
    """No candidate keeps the budget, not even the most exact one."""


def unkept(name: str, budgets: Sequence[Budget], scores: Scores, workload: Workload) -> BudgetError:
    """Make the error of a budget that even the most exact candidate misses.

    Args:
        name: of that candidate.
        budgets: that must all hold.
        scores: of the candidate.
        workload: of the kind of pipeline.
    """
    option = accepting_option(budgets, scores, workload)
    accepted = "state a budget that it keeps" if option is None else f"{option} accepts it"
    return BudgetError(
        f"not even {name} keeps the budget: {shown(budgets, scores)}",
        hint=f"the nearest result is {name} itself; nothing was published: {accepted}",
    )


def write_report(report: SearchReport, folder: Path, stage: Stage) -> None:
    """Write a report and its plot into a folder; without the library of plots, the report alone.

    Raises:
        OutputError: it cannot be written.
    """
    atomic_write_bytes(folder / "search.json", report.dump())
    try:
        atomic_write_bytes(folder / "pareto.svg", pareto_plot(report))
        stage("report", f"{folder / 'search.json'}, {folder / 'pareto.svg'}")
    except EngineMissingError as err:
        stage("report", f"{folder / 'search.json'}; no plot: {err.hint}")
