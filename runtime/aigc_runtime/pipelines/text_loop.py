"""The loop of text generation: rows that fit together are read, then grow by one token after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.logits import sample_tokens
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.pipelines.prompt_lookup import grow_by_lookup
from aigc_runtime.pipelines.text_engines import TextEngines
from aigc_runtime.pipelines.text_reading import Cancel, Reading
from aigc_runtime.pipelines.text_rows import Row

__all__ = ["fitting_batches", "generate_rows", "grow", "padded"]


def fitting_batches(rows: Sequence[Row], engines: TextEngines, *, apart: bool = False) -> Iterator[list[Row]]:
    """Rows in batches, such that each has all of its room: the longest prompt of a batch pads all others.

    Rows of a model that reads a long text anew share a batch only where all of them are read anew at once; `apart`,
    none share one.
    """
    if apart:
        yield from ([row] for row in rows)
        return
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: row.history.prompt_length):
        if batch and not _fits([*batch, row], engines):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _fits(rows: Sequence[Row], engines: TextEngines) -> bool:
    """Whether rows, the shortest prompt first, can be generated together."""
    shortest, longest = rows[0].history.prompt_length, rows[-1].history.prompt_length
    steps = longest + max(row.room for row in rows) - 1  # the last token is not read
    if steps > engines.max_steps or (engines.max_rows is not None and len(rows) > engines.max_rows):
        return False
    again = engines.settings.recompute_at
    if again is None or shortest == longest or steps <= again:
        return True
    # The first run must hold so much of the shortest row that it is seen as a long one, behind its padding.
    return shortest > again and engines.reads_at_once(longest - shortest + again + 1)


def padded(rows: Sequence[Row], engines: TextEngines) -> tuple[Array, Array]:
    """The prompts of rows beside each other: [B, S] int64 with padding at the left, and [B] int64, how much of it.

    An engine that takes only more rows than these is given the first one several times.
    """
    lengths = [row.history.prompt_length for row in rows]
    ids_BS = np.full((engines.batch_of(len(rows)), max(lengths)), engines.settings.pad_token_id, dtype=np.int64)
    pad_B = np.zeros(len(ids_BS), dtype=np.int64)
    for i in range(len(ids_BS)):
        row = rows[i if i < len(rows) else 0]
        pad_B[i] = max(lengths) - row.history.prompt_length
        ids_BS[i, pad_B[i] :] = row.history.ids
    return ids_BS, pad_B


def generate_rows(
    rows: Sequence[Row],
    engines: TextEngines,
    sampling: SamplingParams,
    *,
    prefill_chunk: int | None = None,
    lookup: int = 0,
    cancel: Cancel | None = None,
) -> Iterator[None]:
    """Generate rows of one batch; see `grow`. A prompt that several rows have is read once."""
    unlike = {row.history.ids.tobytes(): row for row in rows}
    ids_BS, pad_B = padded(list(unlike.values()), engines)
    reading, spread = Reading(engines, pad_B, prefill_chunk=prefill_chunk), None
    if len(unlike) < len(rows):
        places = {prompt: place for place, prompt in enumerate(unlike)}
        spread = [places[row.history.ids.tobytes()] for row in rows]
        spread += spread[:1] * (engines.batch_of(len(rows)) - len(rows))
    yield from grow(rows, reading, ids_BS, sampling, lookup=lookup, cancel=cancel, spread=spread)


def grow(
    rows: Sequence[Row],
    reading: Reading,
    ids_BS: Array,
    sampling: SamplingParams,
    *,
    lookup: int = 0,
    cancel: Cancel | None,
    spread: Sequence[int] | None = None,
) -> Iterator[None]:
    """Read tokens, and generate until every row is done, or `cancel` says so.

    Args:
        rows: at most as many as `reading` has.
        reading: holds the beginning of their prompts, or nothing.
        ids_BS: the rest of their prompts.
        sampling: how tokens are chosen.
        lookup: of one row alone, how many tokens are looked up for one run; see `prompt_lookup`.
        cancel: asked before every run of an engine.
        spread: for each row, the row of `reading` that has its prompt; None where they are the same.

    Yields:
        After each token of all rows. A row that was cancelled stays open.

    Raises:
        InputError: the options of sampling leave a row no token.
        EngineError: the engine failed.
    """
    if lookup:
        (row,) = rows
        yield from grow_by_lookup(row, reading, ids_BS, sampling, most=lookup, cancel=cancel)
        return
    eos = reading.eos_token_ids
    while (logits_BV := reading.feed(ids_BS, cancel=cancel)) is not None:
        if spread is not None:
            reading.select(spread)
            logits_BV, spread = logits_BV[list(spread)], None
        going = [i for i, row in enumerate(rows) if row.is_open]
        chosen = logits_BV if len(going) == len(logits_BV) else logits_BV[going]
        generators, history = [rows[i].generator for i in going], [rows[i].history for i in going]
        tokens = sample_tokens(chosen, sampling, generators, history, eos).tolist()
        ids_BS = np.full((len(logits_BV), 1), tokens[0], dtype=np.int64)
        for i, token, logits in zip(going, tokens, chosen, strict=True):
            rows[i].accept(token, logits)
            ids_BS[i, 0] = token
        yield
        if not any(row.is_open for row in rows):
            return
