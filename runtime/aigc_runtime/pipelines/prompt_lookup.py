"""Speculative decoding by prompt lookup: tokens that once followed the same ones are read together with the next one.

A text often repeats what is in its prompt, or in itself: code that is changed, a summary, a table. What followed the
last few tokens where they occurred before is read in one run with the newest token (Saxena 2023, "Prompt Lookup
Decoding"). The token of each place is then chosen from its own logits by the row's own generator, as it would be one by
one, and what was read behind the first place where another token is chosen is forgotten. So the text is the same,
whether it is drawn or not, as far as an engine gives the same logits for several tokens in one run as one by one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.generation.logits import sample_tokens
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.text_engines import TextEngines
from aigc_runtime.pipelines.text_reading import Cancel, Reading
from aigc_runtime.pipelines.text_rows import Row

__all__ = ["MAX_LOOKUP", "check_lookup", "followed", "grow_by_lookup"]

MAX_LOOKUP = 64
"""Tokens that may be looked up for one run."""

LONGEST, SHORTEST = 3, 2
"""Last tokens that are looked for: as many of them as occurred before. One alone says too little of what follows."""


def check_lookup(tokens: object, sampling: SamplingParams, engines: TextEngines) -> int:
    """How many tokens are looked up for one run; 0 for None.

    Raises:
        InputError: not a number that may be, a beam search, or a model whose carried state cannot forget.
    """
    if tokens is None:
        return 0
    count = as_integer(tokens)
    if count is None or not 1 <= count <= MAX_LOOKUP:
        raise InputError(
            f"prompt_lookup_num_tokens is {shown(tokens)}", hint=f"must be an integer from 1 to {MAX_LOOKUP}"
        )
    if sampling.num_beams > 1:
        raise InputError(
            f"num_beams is {sampling.num_beams}, prompt_lookup_num_tokens {count}",
            hint="a beam search looks nothing up: leave one of them out",
        )
    if not engines.forgets:
        raise InputError(
            f"prompt_lookup_num_tokens is {count}, and this model cannot forget tokens that it has read",
            hint="leave it out",
        )
    return count


def followed(ids: Array, count: int) -> Array:
    """What followed the last tokens where they occurred before, the last time.

    Args:
        ids: [n] int64, all tokens so far.
        count: how many are wanted.

    Returns:
        `count` ids, or none where the last tokens are new. A repetition that reaches the end goes on as it was.

    >>> followed(np.array([1, 2, 3, 4, 5, 1, 2, 3]), 2).tolist()
    [4, 5]
    >>> followed(np.array([7, 8, 9, 8, 9]), 3).tolist()
    [8, 9, 8]
    >>> followed(np.array([1, 2, 3]), 2).tolist()
    []
    """
    for size in range(LONGEST, SHORTEST - 1, -1):
        if count < 1 or len(ids) <= size:
            continue
        tail, starts = ids[-size:], np.ones(len(ids) - size, dtype=bool)
        for place, token in enumerate(tail):
            starts &= ids[place : place + len(starts)] == token
        if starts.any():
            behind = ids[int(np.flatnonzero(starts)[-1]) + size :]
            return np.resize(behind, count)
    return np.zeros(0, dtype=np.int64)


def grow_by_lookup(
    row: Row,
    reading: Reading,
    ids_BS: Array,
    sampling: SamplingParams,
    *,
    most: int,
    cancel: Cancel | None,
) -> Iterator[None]:
    """Read tokens, and generate until the row is done, or `cancel` says so; see `text_loop.grow`.

    Half as many tokens are looked up after a run of which none was right, and twice as many after one of which all
    were.

    Args:
        row: the only one.
        reading: holds the beginning of its prompt, or nothing; each of its rows is this one.
        ids_BS: the rest of its prompt.
        sampling: how tokens are chosen.
        most: tokens that are looked up for one run.
        cancel: asked before every run of an engine.

    Yields:
        After each token. A row that was cancelled stays open.

    Raises:
        InputError: the options of sampling leave the row no token.
        EngineError: the engine failed.
    """
    rows, eos, wanted = len(ids_BS), reading.eos_token_ids, most
    logits_BV = reading.feed(ids_BS, cancel=cancel)
    logits_KV, guessed = None if logits_BV is None else logits_BV[:1], np.zeros(0, dtype=np.int64)
    while logits_KV is not None:
        right = 0
        for place in range(len(logits_KV)):
            logits = logits_KV[place : place + 1]
            (token,) = sample_tokens(logits, sampling, [row.generator], [row.history], eos).tolist()
            row.accept(token, logits[0])
            yield
            if not row.is_open or place == len(guessed) or token != guessed[place]:
                break
            right += 1
        reading.truncate(len(row.history) - 1)
        if not row.is_open:
            return
        if len(guessed):
            wanted = min(most, 2 * wanted) if right == len(guessed) else wanted if right else max(1, wanted // 2)
        guessed = followed(row.history.ids, min(wanted, reading.spare, row.left - 1))
        ids_S = np.concatenate([row.history.ids[-1:], guessed])
        logits_BKV = reading.feed_each(np.repeat(ids_S[None], rows, axis=0), cancel=cancel)
        logits_KV = None if logits_BKV is None else logits_BKV[0]
