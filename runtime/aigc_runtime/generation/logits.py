"""From logits to the next token, in numpy, for a batch of rows.

The steps and their order are those of the field's common generation loop: repetition penalty, temperature, top-k,
top-p, draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError, InputError
from aigc_runtime.generation.rng import TorchGenerator
from aigc_runtime.io.printable import shown

__all__ = ["SamplingParams", "process_logits", "sample_tokens"]

_SMALLEST, _LARGEST = 1e-30, 1e30


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen.

    Attributes:
        temperature: logits are divided by it; 0 takes the most likely token (greedy), of equals the lowest id.
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
        for name, low, high, also in (
            ("temperature", _SMALLEST, _LARGEST, 0.0),
            ("top_p", _SMALLEST, 1.0, None),
            ("repetition_penalty", _SMALLEST, _LARGEST, None),
        ):
            object.__setattr__(self, name, _require(name, getattr(self, name), low=low, high=high, also=also))
        top_k = as_integer(self.top_k)
        if top_k is None or top_k < 0:
            raise InputError(f"top_k is {shown(self.top_k)}", hint="must be an integer of at least 0 (0 keeps all)")
        object.__setattr__(self, "top_k", top_k)  # arithmetic in a type of eight bits would wrap


def _require(name: str, value: object, *, low: float, high: float, also: float | None) -> float:
    number = isinstance(value, Real) and not isinstance(value, bool)
    # NaN compares as false.
    if not number or not (value == also or low <= value <= high):  # type: ignore[operator]
        either = "" if also is None else f"{also:g} or "
        raise InputError(f"{name} is {shown(value)}", hint=f"must be {either}a number from {low:g} to {high:g}")
    return float(value)  # type: ignore[arg-type]


def process_logits(logits_BV: Array, history: Sequence[Array], params: SamplingParams) -> Array:
    """Apply penalty, temperature, top-k and top-p.

    Args:
        logits_BV: [B, V] float.
        history: per row, the ids so far, prompt included; only read where there is a repetition penalty.
        params: what to apply; a temperature of 0 leaves the scale alone.

    Returns:
        [B, V] float64; excluded tokens are -inf. Of tokens of equal logits top-k keeps all or none, top-p drops the
        lowest ids first.

    Raises:
        InputError: a history for another number of rows, or with an id outside 0 to V - 1.
    """
    # Float64 holds every float32 logit times or over _LARGEST, twice, so that nothing overflows on the way.
    logits = _penalize(logits_BV.astype(np.float64), history, params.repetition_penalty)
    if params.temperature not in (0.0, 1.0):
        logits = logits / params.temperature
    if 0 < params.top_k < logits.shape[1]:
        kth = np.partition(logits, -params.top_k, axis=1)[:, -params.top_k, None]
        logits = np.where(logits < kth, -np.inf, logits)
    if params.top_p < 1.0:
        logits = _top_p(logits, params.top_p)
    return logits


def _penalize(logits: Array, history: Sequence[Array], penalty: float) -> Array:
    """Keskar et al. 2019, section 4.1, in place; each token counts once, however often it occurred."""
    if penalty == 1.0:
        return logits
    if len(history) != len(logits):
        raise InputError(f"a history of {len(history)} rows for {len(logits)} rows of logits", hint="one per row")
    vocab_size = logits.shape[1]
    for i, (row, given) in enumerate(zip(logits, history, strict=True)):
        ids = np.asarray(given)
        if not ids.size:
            continue
        if ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= vocab_size:
            raise InputError(
                f"the history of row {i} holds {ids.dtype} from {ids.min()} to {ids.max()}",
                hint=f"token ids are integers from 0 to {vocab_size - 1}",
            )
        seen = row[ids]
        row[ids] = np.where(seen < 0, seen * penalty, seen / penalty)
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
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
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
        EngineError: a row holds NaN or +inf, or nothing but -inf (the logit of a token that cannot come).
        InputError: not one generator per row, or a history that `process_logits` refuses.
    """
    top = logits_BV.max(axis=1)
    if not np.isfinite(top).all():
        row = int(np.flatnonzero(~np.isfinite(top))[0])
        raise EngineError(f"row {row} has logits that are NaN or infinite", hint="run `aigc-run verify` on the bundle")
    if params.temperature == 0.0:
        if params.repetition_penalty != 1.0:
            logits_BV = _penalize(logits_BV.astype(np.float64), history, params.repetition_penalty)
        greedy: Array = logits_BV.argmax(axis=1).astype(np.int64, copy=False)
        return greedy
    if len(generators) != len(logits_BV):
        raise InputError(f"{len(generators)} generators for {len(logits_BV)} rows of logits", hint="one per row")
    cumulative = np.cumsum(_softmax(process_logits(logits_BV, history, params)), axis=1)
    drawn = [g.rand((), dtype="float64") for g in generators]
    # Inverse of the cumulative distribution. Its last entry may be a rounding off 1, so the draw is scaled by it; the
    # first entry above the draw is never a token of probability 0.
    return np.array(
        [np.searchsorted(row, u * row[-1], side="right") for row, u in zip(cumulative, drawn, strict=True)],
        dtype=np.int64,
    )
