"""Measure the quality of built engines beside PyTorch, and hold it against budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aigc_export.mixed_precision.search import BudgetError
from aigc_export.prepare.prepare import Reporter
from aigc_export.recipes.budget import Budget, holds, shown
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.targets.base import EngineUnderTest
from aigc_export.workloads import get_workload
from aigc_export.workloads.evaluate import make_evaluator
from aigc_models.evaluation.evaluation import Evaluation
from aigc_models.evaluation.paired import Scores
from aigc_models.program import Program
from aigc_models.torch_session import open_torch
from aigc_runtime.core.program import OpenProgram

__all__ = ["check_budgets", "measure_quality"]


def measure_quality(
    program: Program,
    recipe: ExportRecipe,
    evaluation: Evaluation,
    built: Mapping[str, EngineUnderTest],
    reporter: Reporter,
) -> Scores:
    """Measure the quality of the engines beside PyTorch."""
    evaluate = make_evaluator(
        get_workload(program.kind),
        open_torch(program),
        program.settings,
        evaluation=evaluation,
        samples=recipe.quality_samples,
        parameters=program.parameters,
        seed=recipe.seed,
        roles=program.engines,
    )
    unbounded = {name: engine.unbounded for name, engine in built.items()}
    scores = evaluate(OpenProgram(unbounded, program.states, program.assets))
    if recipe.search is not None:
        check_budgets(recipe.search.budgets, scores, "the budget that the search had met")
    for warning in scores.warnings:
        reporter.warn(warning)
    return scores


def check_budgets(budgets: Sequence[Budget], scores: Scores, what: str) -> None:
    """The engine that is published must keep every budget, wherever quality was measured on it."""
    if scores != Scores() and not holds(budgets, scores):
        raise BudgetError(
            f"the engine misses {what}: {shown(budgets, scores)}",
            hint="ask for more --quality-samples, or state a wider --budget; nothing was published",
        )
