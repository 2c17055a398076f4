"""Options that change single logits of a row, whether the next token is drawn or the most likely one is taken.

Each function changes a row of logits [V] float64 in place. Their order is that of transformers'
`GenerationMixin._get_logits_processor`; the two penalties that it does not have follow the one that it has, as in vLLM.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.history import TokenHistory
from aigc_runtime.generation.sampling_params import SamplingParams

__all__ = ["change_logits"]


def change_logits(row: Array, history: TokenHistory, params: SamplingParams, eos_token_ids: Collection[int]) -> None:
    """Apply every option that is on, in place.

    Args:
        row: [V] float64, which holds every float32 logit times or over the largest penalty without overflow.
        history: the row's tokens so far, all below V.
        params: the options; those that only concern a draw do nothing here.
        eos_token_ids: ids that end a text.
    """
    if params.sequence_bias:
        _add_bias(row, history.ids, params.sequence_bias)
    if params.repetition_penalty != 1.0:
        _penalize_repetition(row, history.ids, params.repetition_penalty)
    if params.frequency_penalty or params.presence_penalty:
        _penalize_generated(row, history.generated, params.frequency_penalty, params.presence_penalty)
    if params.no_repeat_ngram_size:
        _ban_repeated_ngrams(row, history.ids, params.no_repeat_ngram_size)
    if params.bad_words_ids:
        ends = {(token,) for token in eos_token_ids}  # transformers never bans a word that is the end of a text
        banned = [(ids, -np.inf) for ids in params.bad_words_ids if ids not in ends]
        _add_bias(row, history.ids, banned)
    generated = len(history) - history.prompt_length
    if generated < params.min_new_tokens:
        row[list(eos_token_ids)] = -np.inf
    row[list(params.suppress_tokens)] = -np.inf
    if generated == 0:
        row[list(params.begin_suppress_tokens)] = -np.inf


def _add_bias(row: Array, ids: Array, biases: Iterable[tuple[tuple[int, ...], float]]) -> None:
    """Add to the logit of the last id of each sequence where `ids` ends with those before it."""
    total: dict[int, float] = {}
    for (*before, last), bias in biases:
        if not before or (len(before) <= len(ids) and ids[-len(before) :].tolist() == before):
            total[last] = total.get(last, 0.0) + bias
    for last, bias in total.items():
        row[last] += bias


def _penalize_repetition(row: Array, ids: Array, penalty: float) -> None:
    """Keskar et al. 2019, section 4.1; each token counts once, however often it occurred."""
    seen = row[ids]
    row[ids] = np.where(seen < 0, seen * penalty, seen / penalty)


def _penalize_generated(row: Array, generated: Array, frequency: float, presence: float) -> None:
    """OpenAI's definition: mu[j] - c[j] * frequency - (c[j] > 0) * presence, c[j] times that j was generated."""
    tokens, counts = np.unique(generated, return_counts=True)
    row[tokens] -= counts * frequency + presence


def _ban_repeated_ngrams(row: Array, ids: Array, size: int) -> None:
    """Ban every token that once followed the last `size` - 1 tokens."""
    if len(ids) < size:
        return
    windows = np.lib.stride_tricks.sliding_window_view(ids, size)
    matches = (windows[:, :-1] == ids[len(ids) + 1 - size :]).all(axis=1)
    row[windows[matches, -1]] = -np.inf
