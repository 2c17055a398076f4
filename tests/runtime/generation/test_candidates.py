"""Which tokens are left, by full sorts."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from aigc_runtime.generation.candidates import find_candidates, largest
from aigc_runtime.generation.history import TokenHistory
from aigc_runtime.generation.logits import sample_tokens
from aigc_runtime.generation.logprobs import log_softmax
from aigc_runtime.generation.rng import TorchGenerator
from aigc_runtime.generation.sampling_params import SamplingParams


@pytest.mark.parametrize("size", [1, 5, 64, 65, 1000, 5000])
def test_the_largest_and_all_that_equal_the_smallest_of_them(size: int) -> None:
    rng = np.random.default_rng(size)
    for row in (rng.standard_normal(size), rng.integers(0, 9, size).astype(np.float64), np.zeros(size)):
        row[rng.integers(0, size, size // 3)] = -np.inf
        for k in {1, 2, 50, 63, 999, size} & set(range(1, size + 1)):
            kth = np.sort(row)[-k]
            assert largest(row, k).tolist() == np.flatnonzero(row >= kth).tolist()


@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.999, 1 - 1e-9])
def test_top_p_of_many_tokens_is_that_of_a_full_sort(spread: float, top_p: float) -> None:
    row = (spread * np.random.default_rng(1).standard_normal(40_000)).astype(np.float32)
    probability = np.exp(row.astype(np.float64) - row.max())
    probability /= probability.sum()
    order = np.argsort(probability, kind="stable")
    dropped = np.cumsum(probability[order]) <= 1 - top_p
    expected = np.sort(order[~dropped])
    found = find_candidates(row, SamplingParams(temperature=1.0, top_p=top_p)).ids
    # Sums of another order may differ in their last digit, and so in one token.
    assert len(np.setxor1d(found, expected)) <= 1


@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
@pytest.mark.parametrize("typical_p", [0.1, 0.9, 1 - 1e-9])
def test_typical_p_of_many_tokens_is_that_of_a_full_sort(spread: float, typical_p: float) -> None:
    row = (spread * np.random.default_rng(2).standard_normal(40_000)).astype(np.float32)
    logprobs = log_softmax(row)
    entropy = -(np.exp(logprobs) * logprobs).sum()
    order = np.argsort(np.abs(-logprobs - entropy), kind="stable")
    count = int((np.cumsum(np.exp(logprobs[order])) < typical_p).sum()) + 1
    found = find_candidates(row, SamplingParams(temperature=1.0, typical_p=typical_p)).ids
    assert len(np.setxor1d(found, order[:count])) <= 1


def test_one_token_is_always_left() -> None:
    row = np.array([1.0, 1.0, 1.0], dtype=np.float32)
    strict = SamplingParams(temperature=1e-30, top_p=1e-30, min_p=1.0, typical_p=1e-30)
    assert len(find_candidates(row, strict).ids) == 1


@pytest.mark.parametrize(("options", "most"), [({}, 0.1), ({"temperature": 0.7, "top_k": 50}, 1.5)])
def test_a_large_vocabulary_is_not_copied(options: dict[str, Any], most: float) -> None:
    """Bytes for each of a million tokens: a mask has one, a copy in float64 eight."""
    logits = np.random.default_rng(0).standard_normal((1, 2**20)).astype(np.float32)
    params, generator, history = SamplingParams(**options), TorchGenerator(0), TokenHistory(np.array([1]))
    tracemalloc.start()
    try:
        sample_tokens(logits, params, [generator], [history])
        assert tracemalloc.get_traced_memory()[1] < most * 2**20
    finally:
        tracemalloc.stop()
