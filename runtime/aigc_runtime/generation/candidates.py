"""Which tokens a draw may give: temperature, top-k, top-p, min-p, typical-p, in transformers' order.

A vocabulary has up to some 256,000 tokens, and few of them can come. So the tokens that are left are carried as their
ids and logits, and no step sorts a whole vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.sampling_params import SamplingParams

__all__ = ["Candidates", "find_candidates", "largest", "probabilities"]

_GROUPS = 64
"""Logits of which one maximum is taken when the largest are looked for."""

_FIRST = 1024
"""Tokens that top-p and typical-p sort at first; most often they are enough."""


class Candidates(NamedTuple):
    """Tokens that may come.

    Attributes:
        ids: [N] int64, ascending.
        logits: [N] float64, of those ids.
    """

    ids: Array
    logits: Array

    def keep(self, kept: Array) -> Candidates:
        """Those for which `kept` [N] is true."""
        return self if kept.all() else Candidates(self.ids[kept], self.logits[kept])


def find_candidates(row: Array, params: SamplingParams) -> Candidates:
    """The tokens of a row that a draw may give, with the logits that it draws by.

    Args:
        row: [V] float.
        params: a temperature of 0 leaves the scale alone.

    Returns:
        At least one. Of tokens of equal logits top-k keeps all or none, top-p drops the lowest ids first.
    """
    if 0 < params.top_k < len(row):
        # A division by the temperature keeps the order.
        ids = largest(row, params.top_k)
        found = Candidates(ids, row[ids].astype(np.float64))
    else:
        found = Candidates(np.arange(len(row)), row.astype(np.float64))
    if params.temperature not in (0.0, 1.0):
        found = Candidates(found.ids, found.logits / params.temperature)
    if params.top_p < 1.0:
        found = found.keep(_top_p(found.logits, params.top_p))
    if params.min_p > 0.0:
        probability = probabilities(found.logits)
        found = found.keep(probability >= params.min_p * probability.max())
    if params.typical_p < 1.0:
        found = found.keep(_typical(found.logits, params.typical_p))
    return found


def largest(row: Array, k: int) -> Array:
    """The ids of the k largest entries of a row [V], and of all that equal the smallest of them; ascending.

    >>> largest(np.array([3.0, 1.0, 2.0, 2.0]), 2).tolist()
    [0, 2, 3]
    """
    groups = len(row) // _GROUPS
    if k >= len(row):
        return np.arange(len(row))
    if k <= groups:
        # Each of k groups has an entry as large as the k-th largest of all maxima: no smaller one is among the largest.
        most = row[: groups * _GROUPS].reshape(_GROUPS, groups).max(axis=0)
        ids = np.flatnonzero(row >= np.partition(most, groups - k)[groups - k])
    else:
        ids = np.arange(len(row))
    values = row[ids]
    kept: Array = ids[values >= np.partition(values, len(values) - k)[len(values) - k]]
    return kept


def probabilities(logits: Array) -> Array:
    """Softmax of [N] float64."""
    shifted: Array = np.exp(logits - logits.max())
    shifted /= shifted.sum()
    return shifted


def _top_p(logits: Array, top_p: float) -> Array:
    """Which of [N] logits are kept."""
    probability = probabilities(logits)
    count = min(_FIRST, len(logits))
    while True:
        likely = largest(logits, count)
        rest = 0.0 if len(likely) == len(logits) else max(0.0, 1.0 - float(probability[likely].sum()))
        if rest <= 1 - top_p or len(likely) == len(logits):
            break
        count *= 8
    ascending = likely[np.argsort(logits[likely], kind="stable")]
    # From the least likely up: drop while what is dropped stays within 1 - p; the most likely token always stays.
    kept = np.zeros(len(logits), dtype=bool)
    kept[ascending[rest + np.cumsum(probability[ascending]) > 1 - top_p]] = True
    kept[ascending[-1]] = True
    return kept


def _typical(logits: Array, typical_p: float) -> Array:
    """Which of [N] logits are kept: those whose surprise is nearest to the entropy (Meister et al. 2022, eq. 11)."""
    probability = probabilities(logits)
    surprise = -(logits - logits.max() - np.log(np.exp(logits - logits.max()).sum()))
    possible = probability > 0
    entropy = float((probability[possible] * surprise[possible]).sum())
    distance = np.abs(surprise - entropy)
    count = min(_FIRST, len(logits))
    while True:
        near = largest(-distance, count)
        order = near[np.argsort(distance[near], kind="stable")]
        reached = np.cumsum(probability[order])
        if reached[-1] >= typical_p or len(near) == len(logits):
            break
        count *= 8
    last = min(int((reached < typical_p).sum()), len(order) - 1)
    kept: Array = distance <= distance[order[last]]
    return kept
