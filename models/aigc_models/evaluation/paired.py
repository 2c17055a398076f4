"""The measured quality of a candidate beside its reference, and the function that measures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aigc_runtime.bundle.manifest import QualityResult
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.proof.paired import PairedMetric

__all__ = ["Evaluator", "ProgramEvaluator", "Scores"]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The measured quality of a candidate.

    Attributes:
        paired: sample by sample.
        quality: the task's metrics of both sides; none where a model has no metric here.
        warnings: what is odd about what was measured.
    """

    paired: tuple[PairedMetric, ...] = ()
    quality: tuple[QualityResult, ...] = ()
    warnings: tuple[str, ...] = ()


ProgramEvaluator = Callable[[OpenProgram], Scores]
"""Evaluates a candidate."""
Evaluator = Callable[[OpenProgram | Session], Scores]
"""Evaluates a candidate; the session of a program's only engine will do."""
