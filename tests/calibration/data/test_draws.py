"""Balanced cells, halves and streams, by counting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigc_calibration.data.chunks import make_chunks
from aigc_calibration.data.draws import balanced_cells, halves, paired_order, stratified, stream
from aigc_runtime.generation.rng import TorchGenerator


def spread(*keys: object, of: int) -> int:
    """Most minus least points of all cells, empty ones included."""
    counts = np.unique(np.stack([np.asarray(k) for k in keys]), axis=1, return_counts=True)[1]
    return int(counts.max() - (counts.min() if len(counts) == of else 0))


@settings(deadline=None)
@given(
    count=st.integers(1, 700),
    steps=st.integers(1, 60),
    conditions=st.integers(1, 24),
    branches=st.integers(1, 2),
    seed=st.integers(0, 9),
)
def test_all_counts_differ_by_at_most_one(count: int, steps: int, conditions: int, branches: int, seed: int) -> None:
    step, condition, branch = balanced_cells(count, steps, conditions, branches, np.random.default_rng(seed))
    assert spread(step, of=steps) <= 1
    assert spread(condition, of=conditions) <= 1
    assert spread(branch, of=branches) <= 1
    assert spread(condition, branch, of=conditions * branches) <= 1
    assert spread(step, condition, branch, of=steps * conditions * branches) <= 1


def test_the_counting_sees_an_imbalance() -> None:
    assert spread([0, 0, 0, 1], of=2) == 2
    assert spread([0, 0], of=2) == 2


@settings(deadline=None)
@given(count=st.integers(1, 200), total=st.integers(1, 500), seed=st.integers(0, 9))
def test_one_from_each_stretch(count: int, total: int, seed: int) -> None:
    found = stratified(count, total, np.random.default_rng(seed))
    assert ((found >= 0) & (found < total)).all()
    edges = np.arange(count + 1) * total // count
    assert ((edges[:-1] <= found) & (found < np.maximum(edges[1:], edges[:-1] + 1))).all()
    if count <= total:
        assert len(np.unique(found)) == count


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_neighbors_go_to_both_halves(count: int) -> None:
    rng = np.random.default_rng(0)
    order = paired_order(count, rng)
    assert sorted(order) == list(range(count))
    place = np.argsort(order)
    whole = count // 2 * 2
    assert all(place[i] % 2 != place[i + 1] % 2 for i in range(0, whole, 2))
    half = halves(np.arange(count), rng)
    assert (half[:whole:2] != half[1:whole:2]).all()
    assert half.sum() == count // 2


def test_streams_are_seeded_and_apart() -> None:
    draws = {
        (key, seed): stream(seed, key).standard_normal(64, dtype=np.float32).tobytes()
        for key, seed in itertools.product(range(1, 6), range(20))
    }
    assert len(set(draws.values())) == len(draws)
    assert draws[4, 3] == stream(3, 4).standard_normal(64, dtype=np.float32).tobytes()
    plain = {np.random.default_rng(s).standard_normal(64, dtype=np.float32).tobytes() for s in range(20)}
    judged = {TorchGenerator(s).randn((64,)).tobytes() for s in range(20)}
    assert not (plain | judged) & set(draws.values())


@pytest.mark.parametrize("conditions", [1, 10, 40])
def test_chunks_hold_every_point_once_and_trajectories_of_every_condition(conditions: int) -> None:
    count, steps, total = 256, 50, 1000
    chunks = make_chunks(count, steps, conditions, 2, np.random.default_rng(0))
    points = [
        (step, int(chunk.conditions[p.row]), p.branch, p.half, int(chunk.timesteps(steps, total)[steps - 1 - step]))
        for chunk in chunks
        for step, taken in chunk.points.items()
        for p in taken
    ]
    assert len(points) == count
    step, condition, branch, half, time = (np.array(v) for v in zip(*points, strict=True))
    assert spread(step, of=steps) <= 1
    assert spread(condition, branch, of=2 * conditions) <= 1
    assert spread(half, of=2) == 0
    assert spread(half, branch, of=4) == 0
    assert (time // (total // steps) == step).all()
    # The halves are alike at every step: pairs are neighbors.
    assert max(abs(int((half[step < s] == 0).sum()) - int((half[step < s] == 1).sum())) for s in range(steps)) <= 2
    assert max(len(c.conditions) for c in chunks) <= 8
    assert [c.first for c in chunks] == [0, *np.cumsum([len(c.conditions) for c in chunks])[:-1]]


def test_every_timestep_belongs_to_a_grid() -> None:
    seen = {
        int(t) for chunk in make_chunks(2000, 50, 10, 2, np.random.default_rng(0)) for t in chunk.timesteps(50, 1000)
    }
    assert seen == set(range(1000))
    for total in (50, 63, 130):  # a schedule that the steps do not divide
        grids = [c.timesteps(50, total) for c in make_chunks(2000, 50, 10, 2, np.random.default_rng(0))]
        assert all((np.diff(g) < 0).all() and g.min() >= 0 and g.max() < total for g in grids)
        assert {int(t) for g in grids for t in g} == set(range(total))
