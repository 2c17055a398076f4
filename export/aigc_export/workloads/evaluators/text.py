"""Evaluate language models: the same windows of a text, each position scored under both sides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from aigc_export.workloads.base import EvaluatorRequest
from aigc_export.workloads.measures import Measure
from aigc_export.workloads.samples.text import SEQUENCE, engines_of
from aigc_models.evaluation.paired import ProgramEvaluator, Scores
from aigc_models.evaluation.quality import WINDOW, batch_rows, session_logits
from aigc_models.evaluation.side_by_side import WORST, WindowScores, remembered, score_side_by_side, weighted_mean
from aigc_models.evaluation.windows import Windows, draw_windows
from aigc_runtime.bundle.manifest import QualityResult
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.tokenizers import ByteTokenizer
from aigc_runtime.pipelines.settings import TextSettings
from aigc_runtime.pipelines.text_tokenizer import text_tokenizer

__all__ = ["AGREEMENT", "DIVERGENCE", "PERPLEXITY", "TEXT_MEASURES", "text_evaluator"]

PERPLEXITY = Measure(
    name="ppl_increase", written="ppl", unit="increase", higher_is_better=False, limit="max_quality_drop"
)
"""Perplexity of a token / PyTorch's - 1."""
DIVERGENCE = Measure(name="kl_divergence", written="kl", unit="number", higher_is_better=False, limit="max_kl")
"""Kullback-Leibler divergence from PyTorch's distribution of the next token, in nats, a mean over positions."""
AGREEMENT = Measure(
    name="top1_agreement", written="top1", unit="share", higher_is_better=True, limit="min_top1_agreement"
)
"""Share of positions with the same likeliest token."""
PER_TOKEN = Measure(name="perplexity", unit="number", higher_is_better=False, is_task=True)
"""Of a token: of models with the same tokenizer alone they can be compared."""
BITS = Measure(name="bits_per_byte", unit="number", higher_is_better=False, is_task=True)
"""Bits for every byte of the text, whatever the tokenizer."""
TEXT_MEASURES = (PERPLEXITY, DIVERGENCE, AGREEMENT, PER_TOKEN, BITS)

REMEMBERED_LOGITS = 2**26
"""Of the reference, for the next candidate: 256 MiB."""
GUESSING = 1.0
"""Loss of a token over the logarithm of the vocabulary's size, from which on a model only guesses."""


def text_evaluator(request: EvaluatorRequest) -> ProgramEvaluator:
    """Make the evaluator of a language model, on windows of the evaluation's text.

    Of two engines, for prompts and for tokens, both read them, and of each measure the worse counts.
    """
    settings: TextSettings = request.settings
    engines = tuple(dict.fromkeys(engines_of(request.roles)))
    evaluation, session = request.evaluation, request.reference.session(engines[-1])
    tokenizer = text_tokenizer(settings, request.reference.assets)
    # Bytes belong to every model over bytes, and drawn ids to none.
    may_differ = evaluation.has_task_metric and not isinstance(tokenizer, ByteTokenizer)
    longest = session.interface.dims_by_name[SEQUENCE].max
    windows = draw_windows(
        evaluation.documents,
        tokenizer,
        count=request.samples,
        length=min(WINDOW, settings.context_length, longest or WINDOW),
        seed=request.seed,
    )
    rows = batch_rows(session, windows.ids.shape[1] - 1)
    reference = remembered(
        session_logits(session), most=REMEMBERED_LOGITS if request.repeated or len(engines) > 1 else 0
    )

    def sessions(candidate: OpenProgram) -> tuple[Session, ...]:
        return tuple({id(one): one for one in map(candidate.session, engines)}.values())

    def evaluate(candidate: OpenProgram) -> Scores:
        # Each engine reads all windows: what is worse of both is what a text may get.
        of_each = [
            score_side_by_side(reference, session_logits(one), windows, batch=rows) for one in sessions(candidate)
        ]
        found = max(of_each, key=lambda one: _gap(one)[0])
        quality = tuple(_of_both(found, windows, evaluation.data)) if evaluation.has_task_metric else ()
        return Scores(
            paired=tuple(
                measure.paired(value, standard_error=error, samples=len(windows), data=evaluation.data)
                for measure, value, error in map(_worst, zip(*map(_paired, of_each), strict=True))
            ),
            quality=quality,
            warnings=tuple(_warnings(found, settings, evaluation.data)) if may_differ else (),
        )

    return evaluate


def _gap(found: WindowScores) -> tuple[float, float]:
    """Nats of a token more than the reference's, and their standard error."""
    return weighted_mean(found.nats - found.reference_nats, found.lengths)


def _paired(found: WindowScores) -> Iterator[tuple[Measure, float, float]]:
    """Yield each paired measure with its value and standard error."""
    gap, gap_error = _gap(found)
    ratio = _exp(gap)
    yield PERPLEXITY, ratio - 1, min(ratio * gap_error, WORST)
    yield DIVERGENCE, *weighted_mean(found.kl, found.lengths)
    yield AGREEMENT, *weighted_mean(found.agreeing, found.lengths)


def _worst(of_each: Sequence[tuple[Measure, float, float]]) -> tuple[Measure, float, float]:
    """The worse of what engines have of one measure."""
    sign = -1 if of_each[0][0].higher_is_better else 1
    return max(of_each, key=lambda one: sign * one[1])


def _of_both(found: WindowScores, windows: Windows, data: str) -> Iterator[QualityResult]:
    """Yield what each side has of its own."""
    sides = found.reference_nats, found.nats
    tokens, text_bytes = float(found.lengths.sum()), float(windows.text_bytes.sum())
    yield PER_TOKEN.of_both(*(_exp(_mean(nats, tokens)) for nats in sides), data=data)
    if text_bytes:
        yield BITS.of_both(*(_mean(nats, text_bytes) / math.log(2) for nats in sides), data=data)


def _warnings(found: WindowScores, settings: TextSettings, data: str) -> Iterator[str]:
    loss = _mean(found.reference_nats, float(found.lengths.sum()))
    if loss >= GUESSING * math.log(settings.vocab_size):
        yield (
            f"PyTorch's perplexity on {data} is {_exp(loss):,.0f}, no better than guessing among "
            f"{settings.vocab_size:,} tokens: the tokenizer and the weights may not belong together"
        )


def _mean(sums: Array, count: float) -> float:
    return float(sums.sum()) / count


def _exp(nats: float) -> float:
    return WORST if nats > math.log(WORST) else math.exp(nats)
