"""Measure the quality of built engines beside PyTorch, and hold it against budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aigc_export.mixed_precision.outcome import BudgetError
from aigc_export.prepare.prepare import Reporter
from aigc_export.recipes.budget import Budget, holds, shown
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.targets.base import EngineUnderTest
from aigc_export.workloads import get_workload
from aigc_export.workloads.base import DEFAULT_SAMPLES
from aigc_export.workloads.evaluate import make_evaluator
from aigc_models.evaluation.evaluation import Evaluation
from aigc_models.evaluation.paired import Scores
from aigc_models.program import Program
from aigc_models.torch_session import open_torch
from aigc_runtime.core.program import OpenProgram

__all__ = ["check_budgets", "measure_quality", "samples_of"]

MIN_EXACT_SAMPLES = 8
"""Fewest of a large model in fp32."""


def measure_quality(
    program: Program,
    recipe: ExportRecipe,
    evaluation: Evaluation,
    built: Mapping[str, EngineUnderTest],
    reporter: Reporter,
) -> Scores:
    """Measure the quality of the engines beside PyTorch."""
    workload = get_workload(program.kind)
    evaluate = make_evaluator(
        workload,
        open_torch(program),
        program.settings,
        evaluation=evaluation,
        samples=samples_of(recipe, workload.default_samples(program.parameters)),
        parameters=program.parameters,
        seed=recipe.seed,
        roles=program.engines,
        repeated=False,
    )
    unbounded = {name: engine.unbounded for name, engine in built.items()}
    scores = evaluate(OpenProgram(unbounded, program.states, program.assets))
    if recipe.search is not None:
        check_budgets(recipe.search.budgets, scores, "the budget that the search had met")
    for warning in scores.warnings:
        reporter.warn(warning)
    return scores


def samples_of(recipe: ExportRecipe, default: int) -> int:
    """Choose the number of samples: the user's, or the kind's, of a large model in fp32 a quarter of it.

    An engine in fp32 differs from PyTorch by rounding, in every sample by about as little: a few show it.

    Args:
        recipe: of the export.
        default: number for a model of this kind and size.
    """
    if recipe.quality_samples is not None:
        return recipe.quality_samples
    if recipe.stored_precision != "fp32" or default >= DEFAULT_SAMPLES:
        return default
    return max(MIN_EXACT_SAMPLES, default // 4)


def check_budgets(budgets: Sequence[Budget], scores: Scores, what: str) -> None:
    """The engine that is published must keep every budget, wherever quality was measured on it."""
    if scores != Scores() and not holds(budgets, scores):
        raise BudgetError(
            f"the engine misses {what}: {shown(budgets, scores)}",
            hint="ask for more --quality-samples, or state a wider --budget; nothing was published",
        )
