"""Log probabilities of tokens, as a model's logits have them."""

from __future__ import annotations

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.candidates import largest

__all__ = ["log_softmax", "top_logprobs"]


def log_softmax(row: Array) -> Array:
    """[V] float -> [V] float64."""
    shifted = row.astype(np.float64) - float(row.max())
    shifted -= np.log(np.exp(shifted).sum())
    return shifted


def top_logprobs(row: Array, token: int, count: int) -> tuple[float, Array, Array]:
    """The log probability of a token, and the `count` most likely tokens: ids and log probabilities, best first.

    Of tokens of equal logits the lowest ids come first.
    """
    logprobs = log_softmax(row)
    if not count:
        return float(logprobs[token]), np.zeros(0, dtype=np.int64), np.zeros(0)
    ids = largest(row, count)
    ids = ids[np.argsort(-row[ids], kind="stable")][:count]
    return float(logprobs[token]), ids, logprobs[ids]
