"""Compare a session with the PyTorch model: on tensors, on a whole generation, on quality. Fails closed."""

from __future__ import annotations

from collections.abc import Sequence

from aigc_export.parity.reference import Case, Generation
from aigc_models.evaluation.paired import Scores
from aigc_models.program import Program
from aigc_runtime.bundle.manifest import Tolerances
from aigc_runtime.core.program import OpenProgram, as_program
from aigc_runtime.core.session import Session
from aigc_runtime.proof.paired import check_paired
from aigc_runtime.proof.text_vectors import check_text_vectors
from aigc_runtime.proof.verify import ParityReport, check_generation, check_quality, check_tensors

__all__ = ["check_parity"]


def check_parity(
    candidate: OpenProgram | Session,
    program: Program,
    *,
    name: str,
    target: str,
    precision: str,
    cases: Sequence[Case],
    generation: Generation,
    scores: Scores,
    tolerances: Tolerances,
    text: bytes | None = None,
) -> ParityReport:
    """Run all three levels of parity, and replay texts and chats.

    Args:
        candidate: the engines.
        program: the model.
        name: of the model, for the report, as are the next two.
        target: where it runs.
        precision: of its weights and arithmetic.
        cases: PyTorch's arrays.
        generation: PyTorch's generation.
        scores: of the candidate beside PyTorch; empty where quality is not measured.
        tolerances: explicit limits.
        text: the file of texts and chats; None for a model without a tokenizer of a file.
    """
    steps = [(case.name, [(step.engine, step.inputs, step.outputs) for step in case.steps]) for case in cases]
    return ParityReport(
        name=name,
        target=target,
        precision=precision,
        tensors=check_tensors(as_program(candidate), steps, tolerances.tensor),
        generation=check_generation(
            candidate, program.settings, generation.request, generation.outputs, tolerances, program.engines
        ),
        quality=check_quality(scores.quality, tolerances),
        paired=check_paired(scores.paired, tolerances),
        text=None if text is None else check_text_vectors(program.settings, program.assets, text),
    )
