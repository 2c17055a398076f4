"""Beam search against an exhaustive search over all texts of a small model."""

from __future__ import annotations

import itertools

import numpy as np

from aigc_runtime.generation.beams import BeamSearch
from aigc_runtime.generation.sampling_params import SamplingParams

V, LENGTH = 4, 4
TABLE = np.log(np.random.default_rng(4).dirichlet(np.ones(V), size=(LENGTH, V)))
"""The log probability of a token at a place, by the token before it."""


def score(tokens: tuple[int, ...]) -> float:
    before = (0, *tokens)
    return float(sum(TABLE[i, before[i], token] for i, token in enumerate(tokens)))


def searched(params: SamplingParams, eos: int | None = None) -> list[tuple[tuple[int, ...], float]]:
    search = BeamSearch(params, max_new_tokens=LENGTH, ends=lambda tokens: tokens[-1] == eos, eos_count=1)
    while not search.is_done:
        place = len(search.running[0].tokens)
        rows = [TABLE[place, (0, *beam.tokens)[-1]] for beam in search.running]
        parents = search.step(rows)
        assert len(parents) == len(search.running)
    return [(beam.tokens, beam.score) for beam in search.finished]


def test_enough_beams_find_the_best_of_all_texts() -> None:
    found = searched(SamplingParams(num_beams=V ** (LENGTH - 1), length_penalty=0.0))
    every = sorted(itertools.product(range(V), repeat=LENGTH), key=lambda tokens: -score(tokens))
    assert [tokens for tokens, _ in found] == every[: len(found)]
    np.testing.assert_allclose([one for _, one in found], [score(tokens) for tokens, _ in found])


def test_texts_that_end_compete_with_longer_ones() -> None:
    params = SamplingParams(num_beams=V**LENGTH, length_penalty=0.0, early_stopping="never")
    found = searched(params, eos=2)
    every = {
        tokens
        for n in range(1, LENGTH + 1)
        for tokens in itertools.product(range(V), repeat=n)
        if 2 not in tokens[:-1] and (n == LENGTH or tokens[-1] == 2)
    }
    best = sorted(every, key=lambda tokens: -score(tokens))
    assert [tokens for tokens, _ in found][:5] == best[:5]


def test_the_length_penalty_divides() -> None:
    for penalty in (-1.0, 0.0, 1.0, 2.0):
        for tokens, value in searched(SamplingParams(num_beams=3, length_penalty=penalty), eos=1):
            np.testing.assert_allclose(value, score(tokens) / len(tokens) ** penalty)


def test_a_search_ends_when_all_continuations_end() -> None:
    search = BeamSearch(SamplingParams(num_beams=2), max_new_tokens=9, ends=lambda tokens: True, eos_count=0)
    assert search.step([TABLE[0, 0]]) == []
    assert search.is_done
    assert len(search.finished) == 2


def test_tokens_that_cannot_come_are_no_beams() -> None:
    row = np.array([-np.inf, -0.5, -np.inf, -1.0])
    search = BeamSearch(SamplingParams(num_beams=4), max_new_tokens=9, ends=lambda tokens: False, eos_count=0)
    assert search.step([row]) == [0, 0]
    assert [beam.tokens for beam in search.running] == [(1,), (3,)]
