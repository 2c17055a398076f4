"""From logits to the next token, in numpy, for a batch of rows.

The steps and their order are those of the field's common generation loop: repetition penalty, temperature, top-k,
top-p, draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aigc_runtime.errors import EngineError, InputError
from aigc_runtime.rng import TorchGenerator
from aigc_runtime.tensors import Array

__all__ = ["SamplingParams", "process_logits", "sample_tokens"]


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen.

    Attributes:
        temperature: logits are divided by it; 0 takes the most likely token (greedy).
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches p (Holtzman et al. 2020, eq. 2); 1 keeps all.
        repetition_penalty: divide positive and multiply negative logits of tokens that already occurred
            (Keskar et al. 2019, section 4.1); 1 is off.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        _require("temperature", self.temperature, self.temperature >= 0.0, "must be a finite number of at least 0")
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 0:
            raise InputError(f"top_k is {self.top_k!r}", hint="must be an integer of at least 0 (0 keeps all)")
        _require("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "must be above 0 and at most 1")
        _require("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "must be above 0")


def _require(name: str, value: float, holds: bool, hint: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not holds:
        raise InputError(f"{name} is {value!r}", hint=hint)


def process_logits(logits_BV: Array, history: Sequence[Array], params: SamplingParams) -> Array:
    """Apply penalty, temperature, top-k and top-p.

    Args:
        logits_BV: [B, V] float.
        history: per row, the ids so far, prompt included; only read where there is a repetition penalty.
        params: what to apply; a temperature of 0 leaves the scale alone.

    Returns:
        [B, V] float; excluded tokens are -inf.
    """
    logits = logits_BV
    if params.repetition_penalty != 1.0:
        logits = logits.copy()
        for row, ids in zip(logits, history, strict=True):
            seen = np.unique(ids)
            row[seen] = np.where(
                row[seen] < 0, row[seen] * params.repetition_penalty, row[seen] / params.repetition_penalty
            )
    if params.temperature not in (0.0, 1.0):
        logits = logits / np.float32(params.temperature)
    if 0 < params.top_k < logits.shape[1]:
        kth = np.partition(logits, -params.top_k, axis=1)[:, -params.top_k, None]
        logits = np.where(logits < kth, -np.inf, logits)
    if params.top_p < 1.0:
        logits = _top_p(logits, params.top_p)
    return logits


def _top_p(logits: Array, top_p: float) -> Array:
    ascending = np.argsort(logits, axis=1, kind="stable")
    probability = _softmax(np.take_along_axis(logits, ascending, axis=1))
    # From the least likely up: drop while what is dropped stays within 1 - p; the most likely token always stays.
    drop = np.cumsum(probability, axis=1) <= 1 - top_p
    drop[:, -1] = False
    dropped = np.empty_like(drop)
    np.put_along_axis(dropped, ascending, drop, axis=1)
    return np.where(dropped, -np.inf, logits)


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probability: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return probability


def sample_tokens(
    logits_BV: Array, params: SamplingParams, generators: Sequence[TorchGenerator], history: Sequence[Array]
) -> Array:
    """Choose the next token of every row.

    Args:
        logits_BV: [B, V] float.
        params: how.
        generators: one per row; each draws one float64 uniform, unless the choice is greedy.
        history: see `process_logits`.

    Returns:
        [B] int64.

    Raises:
        EngineError: a row holds NaN, or no finite logit.
    """
    top = logits_BV.max(axis=1)
    if not np.isfinite(top).all():
        row = int(np.flatnonzero(~np.isfinite(top))[0])
        raise EngineError(f"row {row} has logits that are NaN or infinite", hint="run `aigc-run verify` on the bundle")
    if params.temperature == 0.0:
        if params.repetition_penalty != 1.0:
            logits_BV = process_logits(logits_BV, history, params)
        greedy: Array = logits_BV.argmax(axis=1)
        return greedy
    cumulative = np.cumsum(_softmax(process_logits(logits_BV, history, params)), axis=1)
    drawn = [g.rand((), dtype="float64") for g in generators]
    # Inverse of the cumulative distribution; the last entry may be a rounding below 1, so scale the draw by it.
    return np.array(
        [np.searchsorted(row, u * row[-1], side="right") for row, u in zip(cumulative, drawn, strict=True)],
        dtype=np.int64,
    )
