"""Draw samples: from seeded streams of their own, in orders that keep both halves of the samples alike.

The halves of the samples, whose ranges are compared with each other, are those in even and in odd places. Neighbors
in what the samples are stratified over (time, text, rows of a file) therefore go to places beside each other.
"""

from __future__ import annotations

import math

import numpy as np

from aigc_runtime.core.tensors import Array

__all__ = ["balanced_cells", "halves", "paired_order", "stratified", "stream"]


def stream(seed: int, *key: int) -> np.random.Generator:
    """Make a random generator that nothing else draws from.

    Pipelines, and so the evaluation of quality, draw noise from PyTorch's Mersenne Twister. This is numpy's PCG64
    under a key of its own: no seed of one gives numbers of the other, so that no evaluated sample was calibrated on.

    Args:
        seed: 0 or more.
        key: a number of its own for every kind of draw, and perhaps one of what it is drawn for.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def stratified(count: int, total: int, rng: np.random.Generator) -> Array:
    """Draw one integer from each of `count` stretches of 0 to `total` - 1, ascending; distinct if `count` <= `total`.

    >>> stratified(4, 4, np.random.default_rng(0)).tolist()
    [0, 1, 2, 3]
    """
    edges = np.arange(count + 1) * total // count
    return edges[:-1] + (rng.random(count) * np.maximum(np.diff(edges), 1)).astype(np.int64)


def halves(order: Array, rng: np.random.Generator) -> Array:
    """Assign every sample to a half, 0 or 1: of two neighbors in `order` one goes to each half; [N] int64.

    Of an odd number of samples the last in order goes to half 0.
    """
    half = np.zeros(len(order), dtype=np.int64)
    pairs = order[: len(order) - len(order) % 2].reshape(-1, 2)
    half[rng.permuted(pairs, axis=1)[:, 1]] = 1
    return half


def paired_order(count: int, rng: np.random.Generator) -> Array:
    """Shuffle 0 to `count` - 1 so that of each pair 2i, 2i + 1 one is in an even place and one in an odd place."""
    half = halves(np.arange(count), rng)
    order = np.empty(count, dtype=np.int64)
    order[::2], order[1::2] = (rng.permutation(np.flatnonzero(half == one)) for one in (0, 1))
    return order


def balanced_cells(
    count: int, steps: int, conditions: int, branches: int, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Spread `count` points over steps x conditions x branches.

    In every prefix the numbers of points of any two cells, steps, conditions, branches, or pairs of condition and
    branch differ by at most one. Both go round in circles of coprime parts: after lcm(steps, conditions x branches)
    points, when they would meet as before, the steps are shifted by one.

    Args:
        count: points.
        steps: of a trajectory.
        conditions: classes or prompts; 1 for none.
        branches: 2 with and without the condition, or 1.
        rng: of the names of steps and conditions.

    Returns:
        step, condition and branch, [count] each; branch 0 is that with the condition.
    """
    point, width = np.arange(count), conditions * branches
    step = (point + point // math.lcm(steps, width)) % steps
    place = point % width
    # The branch alternates, and each condition has the other branch in the second half of the circle.
    branch = (place + (place // conditions if conditions % 2 == 0 else 0)) % branches
    return rng.permutation(steps)[step], rng.permutation(conditions)[place % conditions], branch
