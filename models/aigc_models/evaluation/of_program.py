"""What a program is evaluated on: what its checkpoint keeps, or the built-in data."""

from __future__ import annotations

from pathlib import Path

from aigc_models.evaluation.evaluation import STANDARD_LIBRARY, Evaluation, choose_evaluation
from aigc_models.program import Program
from aigc_models.weights.checkpoint import shipped_checkpoint

__all__ = ["is_evaluated_elsewhere", "program_evaluation"]


def program_evaluation(program: Program, quality_data: Path | str | None = None) -> Evaluation:
    """Choose what a program is evaluated on; see `choose_evaluation`."""
    found = program.checkpoint
    return choose_evaluation(
        program.settings,
        kept=None if found is None else found.data,
        held_out=() if found is None else found.held_out,
        class_names=None if found is None else found.config.get("class_names"),
        quality_data=quality_data,
    )


def is_evaluated_elsewhere(program: Program, evaluation: Evaluation) -> bool:
    """Check whether own weights are evaluated on the built-in text, which may differ from their training data."""
    found = program.checkpoint
    own = found is None or found.path.parent != shipped_checkpoint(program.name)
    return evaluation.data == STANDARD_LIBRARY and own
