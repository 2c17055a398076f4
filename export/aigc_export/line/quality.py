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
from aigc_models.evaluation.paired import Evaluator, Scores
from aigc_models.program import Program
from aigc_models.torch_session import open_torch
from aigc_runtime.core.program import OpenProgram

__all__ = ["QualityMeter", "check_budgets", "samples_of"]

MIN_EXACT_SAMPLES = 8
"""Fewest of a large model in fp32."""


class QualityMeter:
    """Measures the quality of built engines beside PyTorch, whose own side is computed when it is first needed.

    Args:
        program: the model.
        recipe: of the export.
        evaluation: what is evaluated on.
        reporter: takes the warnings.
        repeated: several attempts may be measured, so that PyTorch's side is worth its memory.
    """

    def __init__(
        self, program: Program, recipe: ExportRecipe, evaluation: Evaluation, reporter: Reporter, *, repeated: bool
    ) -> None:
        self.program, self.recipe, self.evaluation, self.reporter = program, recipe, evaluation, reporter
        self.repeated = repeated
        self._evaluate: Evaluator | None = None

    def measure(self, built: Mapping[str, EngineUnderTest]) -> Scores:
        """Measure engines: part -> its engine.

        Raises:
            BudgetError: the engine misses a budget that a search had met.
        """
        program, recipe = self.program, self.recipe
        if self._evaluate is None:
            workload = get_workload(program.kind)
            self._evaluate = make_evaluator(
                workload,
                open_torch(program),
                program.settings,
                evaluation=self.evaluation,
                samples=samples_of(recipe, workload.default_samples(program.parameters)),
                parameters=program.parameters,
                seed=recipe.seed,
                roles=program.engines,
                repeated=self.repeated,
            )
        unbounded = {name: engine.unbounded for name, engine in built.items()}
        scores = self._evaluate(OpenProgram(unbounded, program.states, program.assets))
        if recipe.search is not None:
            check_budgets(recipe.search.budgets, scores, "the budget that the search had met")
        for warning in scores.warnings:
            if warning not in self.reporter.warnings:
                self.reporter.warn(warning)
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
    return min(default, max(MIN_EXACT_SAMPLES, default // 4))


def check_budgets(budgets: Sequence[Budget], scores: Scores, what: str) -> None:
    """The engine that is published must keep every budget, wherever quality was measured on it."""
    if scores != Scores() and not holds(budgets, scores):
        raise BudgetError(
            f"the engine misses {what}: {shown(budgets, scores)}",
            hint="ask for more --quality-samples, or state a wider --budget; nothing was published",
        )
