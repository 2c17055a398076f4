"""How modules of arrays are judged: against the formulas, and that a worse candidate is judged worse."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from quant_judges import PerplexityJudge, PsnrJudge, perplexity_growth, token_losses

from aigc_runtime.core.tensors import Array


class Scaled:
    """In place of a session: gives its input times a number, and what noise is added to that."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise, self.rows = noise, 0

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        (array,) = feeds.values()
        self.rows += len(array)
        flips = np.where(np.arange(array[0].size).reshape(array.shape[1:]) % 2, 1.0, -1.0)
        return {"out": array + self.noise * flips}


class Likelihoods:
    """In place of a session of tokens: logits from a table, with less of a difference between them."""

    def __init__(self, sharpness: float) -> None:
        table = np.random.default_rng(0).standard_normal((5, 5))
        self.table = sharpness * table

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        return {"logits": self.table[feeds["tokens"]].astype(np.float32)}


def test_psnr_of_a_known_error() -> None:
    rows = np.random.default_rng(0).uniform(0, 1, (40, 6))
    rows[:, 0], rows[:, 1] = 0, 2  # the range of every choice of rows
    judge = PsnrJudge(rows={"x": rows}, output="out")
    reference: Any = Scaled()
    candidate: Any = Scaled(noise=0.02)
    value, error = judge(reference, candidate, seed=0, samples=30)
    assert value == pytest.approx(20 * math.log10(2 / 0.02))
    assert error == pytest.approx(0, abs=1e-6)
    assert reference.rows == candidate.rows == 30
    worse: Any = Scaled(noise=0.2)
    assert judge(reference, worse, seed=0, samples=30)[0] < value - 19


def test_losses_are_those_of_cross_entropy() -> None:
    rng = np.random.default_rng(1)
    logits, tokens = rng.standard_normal((3, 7, 11)) * 30, rng.integers(0, 11, (3, 7))
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits[:, :-1]).reshape(-1, 11), torch.from_numpy(tokens[:, 1:]).reshape(-1), reduction="none"
    )
    np.testing.assert_allclose(token_losses(logits, tokens).ravel(), expected.numpy(), rtol=1e-12)


def test_perplexity_grows_by_the_ratio_of_perplexities() -> None:
    reference = np.full((4, 5), math.log(8.0))
    value, error = perplexity_growth(reference, reference + math.log(1.25))
    assert value == pytest.approx(0.25)
    assert error == pytest.approx(0, abs=1e-12)
    uneven = reference + np.array([[0.1], [0.3], [0.1], [0.3]])
    value, error = perplexity_growth(reference, uneven)
    assert value == pytest.approx(math.expm1(0.2))
    assert error == pytest.approx((1 + value) * np.std([0.1, 0.3, 0.1, 0.3], ddof=1) / 2)


def test_a_duller_model_has_more_perplexity_on_its_own_text() -> None:
    rng, sharp = np.random.default_rng(2), Likelihoods(3.0)
    shares = np.exp(sharp.table) / np.exp(sharp.table).sum(axis=1, keepdims=True)
    rows = np.zeros((50, 20), np.int64)
    for at in range(1, 20):
        rows[:, at] = [rng.choice(5, p=shares[token]) for token in rows[:, at - 1]]
    judge = PerplexityJudge(tokens="tokens", rows=rows, output="logits")
    reference: Any = sharp
    dull: Any = Likelihoods(0.5)
    assert judge(reference, reference, seed=0, samples=40)[0] == 0
    assert judge(reference, dull, seed=0, samples=40)[0] > 0.2
