"""From logits to the next token, in numpy, for a batch of rows.

The steps and their order are those of transformers' `generate`: what changes logits, temperature, top-k, top-p, min-p,
typical-p, draw.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError, InputError
from aigc_runtime.generation.candidates import find_candidates, probabilities
from aigc_runtime.generation.history import TokenHistory
from aigc_runtime.generation.processors import change_logits
from aigc_runtime.generation.rng import TorchGenerator
from aigc_runtime.generation.sampling_params import SamplingParams

__all__ = ["SamplingParams", "change_rows", "check_logits", "process_logits", "sample_tokens"]


def process_logits(
    logits_BV: Array, history: Sequence[TokenHistory], params: SamplingParams, eos_token_ids: Collection[int] = ()
) -> Array:
    """Apply every option but the draw.

    Args:
        logits_BV: [B, V] float.
        history: of each row; only read where an option changes logits.
        params: what to apply; a temperature of 0 leaves the scale alone.
        eos_token_ids: ids that end a text.

    Returns:
        [B, V] float64; excluded tokens are -inf. Of tokens of equal logits top-k keeps all or none, top-p drops the
        lowest ids first.

    Raises:
        InputError: a history for another number of rows, or with an id of V or more.
    """
    rows = change_rows(logits_BV, history, params, eos_token_ids)
    processed = np.full(logits_BV.shape, -np.inf)
    for i, row in enumerate(rows):
        ids, logits = find_candidates(row, params)
        processed[i, ids] = logits
    return processed


def change_rows(
    logits_BV: Array, history: Sequence[TokenHistory], params: SamplingParams, eos_token_ids: Collection[int]
) -> Array:
    """Apply the options that change single logits.

    Returns:
        [B, V] float64; `logits_BV` itself where no such option is on.

    Raises:
        InputError: see `process_logits`; or an option that leaves a row no token.
    """
    if not params.changes_logits:
        return logits_BV
    if len(history) != len(logits_BV):
        raise InputError(f"a history of {len(history)} rows for {len(logits_BV)} rows of logits", hint="one per row")
    changed = logits_BV.astype(np.float64)
    for i, (row, tokens) in enumerate(zip(changed, history, strict=True)):
        tokens.check(i, len(row))
        change_logits(row, tokens, params, eos_token_ids)
        if row.max() == -np.inf:
            raise InputError(
                f"the sampling options leave row {i} no token", hint="ban fewer tokens, or a longer n-gram's repetition"
            )
    return changed


def check_logits(logits_BV: Array) -> None:
    """Refuse logits that no token can be chosen by.

    Raises:
        EngineError: a row holds NaN or +inf, or nothing but -inf (the logit of a token that cannot come).
    """
    top = logits_BV.max(axis=1)
    if not np.isfinite(top).all():
        row = int(np.flatnonzero(~np.isfinite(top))[0])
        raise EngineError(f"row {row} has logits that are NaN or infinite", hint="run `aigc-run verify` on the bundle")


def sample_tokens(
    logits_BV: Array,
    params: SamplingParams,
    generators: Sequence[TorchGenerator],
    history: Sequence[TokenHistory],
    eos_token_ids: Collection[int] = (),
) -> Array:
    """Choose the next token of every row.

    Args:
        logits_BV: [B, V] float.
        params: how.
        generators: one per row; each draws one float64 uniform, unless the choice is greedy.
        history: see `process_logits`.
        eos_token_ids: ids that end a text.

    Returns:
        [B] int64.

    Raises:
        EngineError: see `check_logits`.
        InputError: not one generator per row, or what `change_rows` refuses.
    """
    if params.is_greedy and not params.changes_logits:
        # NaN counts as the largest, so that the likeliest token tells whether a row can be chosen from.
        likeliest = [int(row.argmax()) for row in logits_BV]
        if not all(math.isfinite(row[token]) for row, token in zip(logits_BV, likeliest, strict=True)):
            check_logits(logits_BV)
        return np.array(likeliest, dtype=np.int64)
    check_logits(logits_BV)
    rows = change_rows(logits_BV, history, params, eos_token_ids)
    if params.is_greedy:
        greedy: Array = rows.argmax(axis=1).astype(np.int64, copy=False)
        return greedy
    if len(generators) != len(logits_BV):
        raise InputError(f"{len(generators)} generators for {len(logits_BV)} rows of logits", hint="one per row")
    tokens = np.empty(len(rows), dtype=np.int64)
    for i, (row, generator) in enumerate(zip(rows, generators, strict=True)):
        ids, logits = find_candidates(row, params)
        cumulative = np.cumsum(probabilities(logits))
        # Inverse of the cumulative distribution. Its last entry may be a rounding off 1, so the draw is scaled by it;
        # the first entry above the draw is never a token of probability 0.
        drawn = generator.rand((), dtype="float64") * cumulative[-1]
        tokens[i] = ids[np.searchsorted(cumulative, drawn, side="right")]
    return tokens
