"""Score the logits of a candidate beside those of its reference, position by position, in float64.

Both sides are streamed: of all N x S x V logits, a piece of each side is held at a time.

Notation: p and q are the reference's and the candidate's probabilities of the V tokens at a position, t its target.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from aigc_models.evaluation.metrics import Logits
from aigc_models.evaluation.windows import Windows
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError

__all__ = ["WindowScores", "remembered", "score_side_by_side", "weighted_mean"]

AT_ONCE = 2**19
"""Logits of a side that are scored at a time: in float64 they stay in the cache, 3 times as fast as 2**23."""
WORST = 1e30
"""In place of what is not finite: JSON can hold it, and no limit is met."""


@dataclass(frozen=True, kw_only=True)
class WindowScores:
    """Sums over the tokens to predict of every window, [N] float64 each.

    Attributes:
        lengths: tokens to predict.
        reference_nats: -log p(t).
        nats: -log q(t).
        kl: Kullback-Leibler divergence KL(p || q) = sum p (log p - log q), in nats.
        agreeing: positions whose likeliest token is the same.
    """

    lengths: Array
    reference_nats: Array
    nats: Array
    kl: Array
    agreeing: Array


def score_side_by_side(reference: Logits, candidate: Logits, windows: Windows, *, batch: int) -> WindowScores:
    """Score a candidate.

    Args:
        reference: PyTorch's, see `metrics.Logits`.
        candidate: may give its logits in pieces of other lengths.
        windows: to score on.
        batch: windows at a time.

    Raises:
        EngineError: a side gives too few logits.
    """
    sums = np.zeros((4, len(windows)))
    for start in range(0, len(windows), batch):
        rows = slice(start, start + batch)
        ids, counted, done = windows.ids[rows], windows.counted[rows], 0
        inputs = np.ascontiguousarray(ids[:, :-1])
        for piece, other in _aligned(reference(inputs), candidate(inputs)):
            here = slice(done, done + piece.shape[1])
            done += piece.shape[1]
            targets = torch.from_numpy(ids[:, 1:][:, here, None])
            found = _positions(torch.from_numpy(piece), torch.from_numpy(other), targets)
            sums[:, rows] += np.where(counted[:, here], found.numpy(), 0.0).sum(axis=-1)
        if done < inputs.shape[1]:
            raise EngineError(f"logits of {done} places of {inputs.shape[1]}", hint="the engine is not whole")
    reference_nats, nats, kl, agreeing = sums
    return WindowScores(
        lengths=windows.lengths.astype(np.float64), reference_nats=reference_nats, nats=nats, kl=kl, agreeing=agreeing
    )


@torch.inference_mode()
def _positions(reference: torch.Tensor, candidate: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Logits [B, S, V] of both sides, targets [B, S, 1] -> what is summed up at every position, [4, B, S]."""
    log_p, log_q = reference.double().log_softmax(-1), candidate.double().log_softmax(-1)
    p = log_p.exp()
    # A token that the reference excludes (log p is minus infinity) adds nothing, whatever the candidate makes of it.
    kl = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
    nats = [-log.gather(-1, targets)[..., 0] for log in (log_p, log_q)]
    agreeing = (log_p.argmax(-1) == log_q.argmax(-1)) & ~kl.isnan()
    return torch.nan_to_num(torch.stack([*nats, kl, agreeing.double()]), nan=WORST, posinf=WORST, neginf=-WORST)


def _aligned(first: Iterable[Array], second: Iterable[Array]) -> Iterator[tuple[Array, Array]]:
    """Cut the pieces of both sides to the same lengths, of about `AT_ONCE` numbers."""
    sources = iter(first), iter(second)
    held: list[Array | None] = [None, None]
    while True:
        for side, source in enumerate(sources):
            if held[side] is None:
                held[side] = next(source, None)
        a, b = held
        if a is None or b is None:
            return
        length = min(a.shape[1], b.shape[1], max(1, AT_ONCE // (a.shape[0] * a.shape[2])))
        yield a[:, :length], b[:, :length]
        held = [rest if rest.shape[1] else None for rest in (a[:, length:], b[:, length:])]


def remembered(logits: Logits, *, most: int) -> Logits:
    """Keep the logits of a side that is asked for several times, up to `most` numbers; others are computed again."""
    kept: dict[bytes, list[Array]] = {}
    numbers = 0

    def run(ids: Array) -> Iterable[Array]:
        nonlocal numbers
        key = ids.tobytes()
        if key in kept:
            yield from kept[key]
            return
        pieces: list[Array] = []
        for piece in logits(ids):
            if numbers + sum(p.size for p in pieces) + piece.size <= most:
                pieces.append(piece)
            else:
                pieces, key = [], b""
            yield piece
        if key and pieces:
            kept[key] = pieces
            numbers += sum(piece.size for piece in pieces)

    return run


def weighted_mean(sums: Array, lengths: Array) -> tuple[float, float]:
    """Compute a mean over tokens, and its standard error over windows of different lengths.

    The mean is r = sum x / sum n; with residuals x_i - r n_i its variance is that of a ratio of means (Cochran 1977,
    Sampling Techniques, eq. 6.10, without the finite population).

    >>> weighted_mean(np.array([2.0, 4.0]), np.array([1.0, 2.0]))
    (2.0, 0.0)

    Args:
        sums: [N], of every window.
        lengths: [N], its tokens.
    """
    n = len(sums)
    mean = float(sums.sum() / lengths.sum())
    residuals = sums - mean * lengths
    error = math.sqrt(float((residuals**2).sum()) / (n - 1) / n) / float(lengths.mean())
    return mean, error
