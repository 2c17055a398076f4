"""How a quantized module of arrays is judged beside PyTorch in fp32, on real data that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from aigc_export.workloads.evaluators.images import image_psnr
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array

__all__ = ["Judge", "PerplexityJudge", "PsnrJudge", "perplexity_growth", "token_losses"]

AT_ONCE = 16
"""Rows that run together."""


class Judge(Protocol):
    """Measures a candidate beside the reference.

    Attributes:
        measure: name of the value, `ppl_increase`, which is better when lower, or another, which is better when higher.
    """

    @property
    def measure(self) -> str: ...

    def __call__(self, reference: Session, candidate: Session, *, seed: int, samples: int) -> tuple[float, float]:
        """The value and its standard error over `samples` held-out rows, which `seed` chooses."""
        ...


@dataclass(frozen=True, kw_only=True)
class PsnrJudge:
    """PSNR of the outputs of PyTorch's own range, in decibels.

    Attributes:
        rows: input -> held-out rows [N, ...].
        output: name of the output that is compared.
    """

    rows: Mapping[str, Array]
    output: str
    measure: str = "psnr_db"

    def __call__(self, reference: Session, candidate: Session, *, seed: int, samples: int) -> tuple[float, float]:
        """See `Judge`."""
        chosen = _chosen(self.rows, samples, seed)
        metric = image_psnr(_run(reference, chosen, self.output), _run(candidate, chosen, self.output))
        return metric.value, metric.standard_error


@dataclass(frozen=True, kw_only=True)
class PerplexityJudge:
    """Growth of the perplexity of next tokens: 0.01 is one percent.

    Attributes:
        tokens: name of the input of token ids.
        rows: held-out windows [N, T] int64.
        output: name of the output of logits [B, T, V].
    """

    tokens: str
    rows: Array
    output: str
    measure: str = "ppl_increase"

    def __call__(self, reference: Session, candidate: Session, *, seed: int, samples: int) -> tuple[float, float]:
        """See `Judge`."""
        chosen = _chosen({self.tokens: self.rows}, samples, seed)
        losses = [token_losses(_run(one, chosen, self.output), chosen[self.tokens]) for one in (reference, candidate)]
        return perplexity_growth(*losses)


def token_losses(logits: Array, tokens: Array) -> Array:
    """Negative logarithm of the likelihood of each next token: [N, T, V] and [N, T] -> [N, T - 1], in nats."""
    scores = logits[:, :-1].astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    log_sums = np.log(np.exp(scores).sum(axis=-1))
    found: Array = log_sums - np.take_along_axis(scores, tokens[:, 1:, None], axis=-1)[..., 0]
    return found


def perplexity_growth(reference: Array, candidate: Array) -> tuple[float, float]:
    """Growth of exp(mean loss), and its standard error by the delta method over windows.

    >>> perplexity_growth(np.ones((2, 3)), np.ones((2, 3)))
    (0.0, 0.0)

    Args:
        reference: losses [N, T] of two windows or more, in nats.
        candidate: losses of the same tokens.
    """
    difference = (candidate - reference).mean(axis=1)
    growth = math.expm1(float(difference.mean()))
    return growth, (1 + growth) * float(difference.std(ddof=1)) / math.sqrt(len(difference))


def _chosen(rows: Mapping[str, Array], samples: int, seed: int) -> dict[str, Array]:
    """`samples` rows at most of each input, the same of all, in the order of the data."""
    total = len(next(iter(rows.values())))
    picked = np.random.default_rng(seed).choice(total, min(samples, total), replace=False)
    return {name: array[np.sort(picked)] for name, array in rows.items()}


def _run(session: Session, rows: Mapping[str, Array], output: str) -> Array:
    total = len(next(iter(rows.values())))
    parts = [
        session.run({name: np.ascontiguousarray(array[at : at + AT_ONCE]) for name, array in rows.items()})[output]
        for at in range(0, total, AT_ONCE)
    ]
    return np.concatenate(parts)
