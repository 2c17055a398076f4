"""Beam search with a language model: one prompt after the other, its beams as rows of one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.generation.beams import Beam, BeamSearch
from aigc_runtime.generation.history import TokenHistory
from aigc_runtime.generation.logits import change_rows, check_logits
from aigc_runtime.generation.logprobs import log_softmax
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.pipelines.stop_strings import StopWatch
from aigc_runtime.pipelines.text_engines import TextEngines
from aigc_runtime.pipelines.text_loop import padded
from aigc_runtime.pipelines.text_reading import Cancel, Reading
from aigc_runtime.pipelines.text_result import TextResult
from aigc_runtime.pipelines.text_rows import Row

__all__ = ["check_beams", "search_beams"]


def check_beams(
    sampling: SamplingParams, engines: TextEngines, *, num_return_sequences: int, logprobs: int | None
) -> None:
    """Refuse what a beam search cannot do.

    Raises:
        InputError: says what, and what to do.
    """
    beams = sampling.num_beams
    if not sampling.is_greedy:
        raise InputError(
            f"num_beams is {beams}, temperature {sampling.temperature:g}",
            hint="a beam search draws nothing: temperature=0",
        )
    if num_return_sequences > beams:
        raise InputError(
            f"num_return_sequences is {num_return_sequences}, num_beams {beams}", hint="a beam gives one text"
        )
    if logprobs is not None:
        raise InputError(
            f"num_beams is {beams}, logprobs {logprobs}", hint="a beam search gives the score of each text instead"
        )
    if engines.max_rows is not None and beams > engines.max_rows:
        raise InputError(f"num_beams is {beams}", hint=f"this engine takes at most {engines.max_rows} rows at once")


def search_beams(
    rows: Sequence[Row],
    engines: TextEngines,
    sampling: SamplingParams,
    *,
    watch: Callable[[], StopWatch],
    prefill_chunk: int | None,
    cancel: Cancel | None,
) -> list[TextResult]:
    """Search the texts behind one prompt.

    Args:
        rows: of the prompt, one for each text that is asked for.
        engines: of the model.
        sampling: the beams, and the options that change logits.
        watch: makes what looks for stop strings in a text.
        prefill_chunk: see `Reading`.
        cancel: asked before every run of an engine; True ends the search with what it has.

    Returns:
        One result for each row, the best first.

    Raises:
        InputError: the options leave fewer texts than are asked for.
        EngineError: the engine failed.
    """
    first, eos = rows[0], engines.settings.eos_token_ids

    def ends(tokens: tuple[int, ...]) -> bool:
        text = watch()
        if tokens[-1] not in eos and text.looks_for_any:
            for token in tokens:
                text.feed(token)
        return tokens[-1] in eos or text.stopped

    search = BeamSearch(sampling, max_new_tokens=first.room, ends=ends, eos_count=len(eos))
    ids_BS, pad_B = padded(rows[:1], engines)
    reading = Reading(engines, pad_B, prefill_chunk=prefill_chunk)
    while (logits_BV := reading.feed(ids_BS, cancel=cancel)) is not None:
        running = search.running
        parents = search.step(_logprobs(logits_BV[: len(running)], first.history.ids, running, sampling, eos))
        if search.is_done:
            break
        # An engine that takes only more rows than there are beams is given the first one several times.
        spare = engines.batch_of(len(parents)) - len(parents)
        reading.select([*parents, *parents[:1] * spare])
        last = [beam.tokens[-1] for beam in search.running]
        ids_BS = np.array([[token] for token in (*last, *last[:1] * spare)], dtype=np.int64)
    found = [*search.finished, *(() if search.is_done else search.running)]
    if search.is_done and len(found) < len(rows):
        raise InputError(
            f"{len(rows)} texts are requested, the sampling options leave {len(found)}",
            hint="ban fewer tokens, or set num_return_sequences lower",
        )
    return [_result(row, beam) for row, beam in zip_longest(rows, found[: len(rows)])]


def _logprobs(
    logits: Array, prompt: Array, beams: Sequence[Beam], sampling: SamplingParams, eos: Sequence[int]
) -> Sequence[Array]:
    """The log probabilities of the next token of each beam, changed by the options that do."""
    check_logits(logits)
    rows = np.stack([log_softmax(row) for row in logits])
    histories = []
    for beam in beams if sampling.changes_logits else ():
        history = TokenHistory(prompt)
        for token in beam.tokens:
            history.append(token)
        histories.append(history)
    return list(change_rows(rows, histories, sampling, eos))


def _result(row: Row, beam: Beam | None) -> TextResult:
    if beam is not None:
        for token in beam.tokens:
            row.accept(token, None)
        row.score = beam.score
    return replace(row.result(), tokens_per_second=None)  # the text was not made token by token
