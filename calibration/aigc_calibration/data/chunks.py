"""Choose the points of sampling trajectories that make the samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aigc_calibration.data.draws import balanced_cells, halves
from aigc_runtime.core.tensors import Array

__all__ = ["Chunk", "Point", "make_chunks"]

POINTS = 5
"""Points of a trajectory, about: more would be cheaper, and more alike."""
ROWS = 8
"""Trajectories of a chunk, at most."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One sample: a row of a trajectory at one step.

    Attributes:
        row: of the chunk's trajectories.
        branch: 0 with the condition, 1 without.
        half: of the samples, 0 or 1.
    """

    row: int
    branch: int
    half: int


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Trajectories that run together, over one grid of timesteps.

    Attributes:
        first: number of the first among all trajectories.
        conditions: [R] int64, the class or prompt of each.
        phase: of the grid, from 0 to below 1.
        points: step, from clean to noisy -> what is taken there.
    """

    first: int
    conditions: Array
    phase: float
    points: Mapping[int, list[Point]]

    def timesteps(self, steps: int, total: int) -> Array:
        """Timesteps from noisy to clean, one from each of `steps` stretches of 0 to `total` - 1: int64 [steps]."""
        return ((np.arange(steps)[::-1] + self.phase) * total / steps).astype(np.int64)


def make_chunks(count: int, steps: int, conditions: int, branches: int, rng: np.random.Generator) -> list[Chunk]:
    """Plan `count` points.

    Args:
        count: points.
        steps: of every trajectory.
        conditions: classes or prompts; 1 for none. Each has trajectories of its own.
        branches: 2 for trajectories that are guided, else 1.
        rng: of everything that is free.
    """
    step, condition, branch = balanced_cells(count, steps, conditions, branches, rng)
    half = halves(np.lexsort((rng.random(count), step, branch)), rng)
    rounds = max(1, round(count / (POINTS * conditions)))
    # The points of a condition go to its trajectories in a random order: else each would see a few steps only.
    turn = np.empty(count, dtype=np.int64)
    for one in range(conditions):
        own = np.flatnonzero(condition == one)
        turn[own] = rng.permutation(len(own)) % rounds
    used, trajectory = np.unique(turn * conditions + condition, return_inverse=True)
    groups = np.array_split(np.arange(len(used)), math.ceil(len(used) / ROWS))
    phases = (rng.permutation(len(groups)) + rng.random()) / len(groups)
    chunks = []
    for group, phase in zip(groups, phases, strict=True):
        points: dict[int, list[Point]] = {}
        for i in np.flatnonzero((trajectory >= group[0]) & (trajectory <= group[-1])):
            taken = Point(row=int(trajectory[i] - group[0]), branch=int(branch[i]), half=int(half[i]))
            points.setdefault(int(step[i]), []).append(taken)
        chunks.append(
            Chunk(first=int(group[0]), conditions=used[group] % conditions, phase=float(phase), points=points)
        )
    return chunks
