"""Evaluate language models: the same windows of a text, each with its likelihood under both sides."""

from __future__ import annotations

import math

from aigc_export.workloads.base import EvaluatorRequest
from aigc_export.workloads.measures import Measure
from aigc_export.workloads.samples.text import SEQUENCE, engines_of
from aigc_models.evaluation.evaluation import text_tokens
from aigc_models.evaluation.metrics import score_windows, text_windows
from aigc_models.evaluation.paired import ProgramEvaluator, Scores
from aigc_models.evaluation.quality import WINDOW, session_logits
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.settings import TextSettings

__all__ = ["TEXT_MEASURES", "text_evaluator"]

PERPLEXITY = Measure(
    name="ppl_increase", written="ppl", unit="increase", higher_is_better=False, limit="max_quality_drop"
)
"""Perplexity / PyTorch's - 1."""
AGREEMENT = Measure(name="top1_agreement", written="top1", unit="share", higher_is_better=True)
"""Share of positions with the same likeliest token."""
BITS = Measure(name="bits_per_byte", unit="number", higher_is_better=False, is_task=True)
TEXT_MEASURES = (PERPLEXITY, AGREEMENT, BITS)


def text_evaluator(request: EvaluatorRequest) -> ProgramEvaluator:
    """Make the evaluator of a language model, on windows of the evaluation's text."""
    settings: TextSettings = request.settings
    _, engine = engines_of(request.roles)
    evaluation, samples, session = request.evaluation, request.samples, request.reference.session(engine)
    longest = session.interface.dims_by_name[SEQUENCE].max
    length = min(WINDOW, settings.context_length, longest or WINDOW)
    tokens = text_tokens(settings, request.reference.assets, evaluation.text)
    windows = text_windows(tokens, count=samples, length=length, seed=request.seed)
    nats, likeliest = score_windows(session_logits(session), windows)

    def evaluate(candidate: OpenProgram) -> Scores:
        its_nats, its_likeliest = score_windows(session_logits(candidate.session(engine)), windows)
        gap = its_nats - nats
        ratio, error = math.exp(float(gap.mean())), float(gap.std(ddof=1)) / math.sqrt(len(gap))
        agreement = (its_likeliest == likeliest).mean(axis=1)
        paired = (
            PERPLEXITY.paired(ratio - 1, standard_error=ratio * error, samples=samples, data=evaluation.data),
            AGREEMENT.paired(
                float(agreement.mean()),
                standard_error=float(agreement.std(ddof=1)) / math.sqrt(samples),
                samples=samples,
                data=evaluation.data,
            ),
        )
        if not evaluation.has_task_metric:
            return Scores(paired=paired)
        return Scores(paired=paired, quality=(BITS.of_both(_bits(nats), _bits(its_nats), data=evaluation.data),))

    return evaluate


def _bits(nats: Array) -> float:
    return float(nats.mean()) / math.log(2)
