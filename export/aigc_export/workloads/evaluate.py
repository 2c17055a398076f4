"""Choose what a model of any kind is evaluated on, and make its evaluator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from aigc_export.workloads import get_workload
from aigc_export.workloads.base import EvaluationFacts, EvaluatorRequest, Workload
from aigc_models.evaluation.evaluation import STANDARD_LIBRARY, Evaluation
from aigc_models.evaluation.paired import Evaluator, Scores
from aigc_models.program import Program
from aigc_models.weights.checkpoint import shipped_checkpoint
from aigc_runtime.core.program import OpenProgram, as_program
from aigc_runtime.core.session import Session
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.kind import SINGLE_ENGINE, Roles

__all__ = ["is_evaluated_elsewhere", "make_evaluator", "program_evaluation"]


def make_evaluator(
    workload: Workload,
    reference: OpenProgram | Session,
    settings: Any,
    *,
    evaluation: Evaluation,
    samples: int | None,
    parameters: int = 0,
    seed: int = 0,
    roles: Roles = SINGLE_ENGINE,
    repeated: bool = True,
) -> Evaluator:
    """Make a function that evaluates candidates beside `reference`.

    Args:
        workload: of the kind of pipeline.
        reference: PyTorch's, or another engine's.
        settings: of the pipeline.
        evaluation: what to evaluate on: to the settings alone, ten classes of something else look like digits.
        samples: windows of text, images, or what the kind takes; 0 evaluates nothing, None takes the kind's number.
        parameters: of the model, by which the kind chooses its number.
        seed: of windows or noise.
        roles: which engine has which role in the pipeline.
        repeated: it is called for several candidates: the reference's own side is kept, where it is not too large.

    Raises:
        ConfigError: one sample, which has no standard error.
    """
    if samples is None:
        samples = workload.default_samples(parameters)
    if samples == 1 or samples < 0:
        raise ConfigError(f"samples is {samples}", hint="at least 2 make a measure; 0 leaves it out")
    if samples == 0:
        return lambda _candidate: Scores()
    evaluate = workload.evaluator(
        EvaluatorRequest(
            reference=as_program(reference),
            settings=settings,
            roles=roles,
            evaluation=evaluation,
            samples=samples,
            seed=seed,
            repeated=repeated,
        )
    )
    return lambda candidate: evaluate(as_program(candidate))


def program_evaluation(program: Program, eval_data: Path | str | None = None) -> Evaluation:
    """Choose what a program is evaluated on: what the user names, what its checkpoint keeps, or the built-in data.

    Raises:
        ConfigError: data was named that this kind cannot be evaluated on.
        InputError: it cannot be read, or is too little.
    """
    facts = EvaluationFacts(eval_data=eval_data, assets=program.assets, program=program)
    if (found := program.checkpoint) is not None:
        names = found.config.get("class_names")
        facts = replace(facts, kept=found.data, held_out=found.held_out, class_names=names)
    return get_workload(program.kind).evaluation(program.settings, facts)


def is_evaluated_elsewhere(program: Program, evaluation: Evaluation) -> bool:
    """Check whether own weights are evaluated on the built-in text, which may differ from their training data."""
    found = program.checkpoint
    own = found is None or found.path.parent != shipped_checkpoint(program.name)
    return evaluation.data == STANDARD_LIBRARY and own
