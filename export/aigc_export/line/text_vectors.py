"""Record what tokenizers and a chat template give, before the costly stages of an export."""

from __future__ import annotations

from aigc_export.prepare.prepare import Reporter
from aigc_models.program import Program, Vectors

__all__ = ["record_vectors"]


def record_vectors(program: Program, reporter: Reporter) -> Vectors | None:
    """Record them; None for a program without any.

    Raises:
        TextDiffersError: transformers reads the tokenizer or the chat template otherwise.
    """
    if program.vectors is None:
        return None
    vectors = program.vectors()
    for note in vectors.notes:
        reporter.warn(note)
    reporter.report("tokens", f"token ids recorded by {vectors.made_by}, equal to what the runtime gives")
    return vectors
