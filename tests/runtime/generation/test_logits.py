"""Choosing tokens: worked examples by hand, frequencies, and every refusal."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_runtime.errors import EngineError, InputError
from aigc_runtime.generation.history import TokenHistory
from aigc_runtime.generation.logits import process_logits, sample_tokens
from aigc_runtime.generation.rng import TorchGenerator
from aigc_runtime.generation.sampling_params import SamplingParams

P = np.array([0.15, 0.5, 0.1, 0.25])
LOGITS = np.log(P).astype(np.float32)[None]
WARM = SamplingParams(temperature=1.0)


def probabilities(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    normalized: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return normalized


def kept(params: SamplingParams, logits: np.ndarray = LOGITS) -> list[int]:
    return np.flatnonzero(np.isfinite(process_logits(logits, (), params)[0])).tolist()


def draws(logits: np.ndarray, params: SamplingParams, count: int, seed: int = 0) -> np.ndarray:
    g = TorchGenerator(seed)
    return np.array([sample_tokens(logits, params, [g], ())[0] for _ in range(count)])


def chi_square(tokens: np.ndarray, p: np.ndarray) -> float:
    """Pearson's statistic; of mean len(p) - 1 if the tokens follow p."""
    expected = p * len(tokens)
    return float(((np.bincount(tokens, minlength=len(p)) - expected) ** 2 / expected).sum())


def test_greedy_takes_the_largest_and_of_equals_the_first() -> None:
    logits = np.array([[0, 3, 3, 1], [5, 5, 5, 5], [-np.inf, -9, -8, -9]], dtype=np.float32)
    tokens = sample_tokens(logits, SamplingParams(), (), ())
    assert tokens.tolist() == [1, 0, 2]
    assert tokens.dtype == np.int64


def test_greedy_draws_nothing() -> None:
    g = TorchGenerator(4)
    sample_tokens(LOGITS, SamplingParams(), [g], ())
    assert g.rand((2,)).tolist() == TorchGenerator(4).rand((2,)).tolist()


def test_temperature_divides() -> None:
    got = process_logits(LOGITS, (), SamplingParams(temperature=0.5))
    np.testing.assert_allclose(probabilities(got)[0], P**2 / (P**2).sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("top_k", "tokens"),
    [(0, [0, 1, 2, 3]), (1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])],
)
def test_top_k(top_k: int, tokens: list[int]) -> None:
    assert kept(SamplingParams(temperature=1.0, top_k=top_k)) == tokens


def test_top_k_keeps_all_that_equal_the_last_kept() -> None:
    logits = np.array([[1, 2, 1, 0]], dtype=np.float32)
    assert kept(SamplingParams(temperature=1.0, top_k=2), logits) == [0, 1, 2]


@pytest.mark.parametrize(
    ("top_p", "tokens"),
    [
        (1e-9, [1]),
        (0.49, [1]),
        (0.51, [1, 3]),
        (0.74, [1, 3]),
        (0.76, [0, 1, 3]),
        (0.91, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p: float, tokens: list[int]) -> None:
    assert kept(SamplingParams(temperature=1.0, top_p=top_p)) == tokens


def test_top_p_counts_what_top_k_left() -> None:
    # After top-k the probabilities are 2/3 and 1/3, so that 0.6 is reached by one token; 0.5 of all is below it.
    assert kept(SamplingParams(temperature=1.0, top_p=0.6)) == [1, 3]
    assert kept(SamplingParams(temperature=1.0, top_k=2, top_p=0.6)) == [1]


def test_top_p_counts_after_the_temperature() -> None:
    assert kept(SamplingParams(temperature=0.25, top_p=0.9)) == [1]


def test_repetition_penalty_of_ragged_histories() -> None:
    logits = np.array([[2.0, -2.0, 4.0], [2.0, -2.0, 4.0], [2.0, -2.0, 4.0]], dtype=np.float32)
    before = logits.copy()
    history = [TokenHistory(np.array(ids)) for ids in ([0, 1, 0, 0], [2], [])]
    got = process_logits(logits, history, SamplingParams(repetition_penalty=2.0))
    assert got.tolist() == [[1.0, -4.0, 4.0], [2.0, -2.0, 2.0], [2.0, -2.0, 4.0]]
    np.testing.assert_array_equal(logits, before)


def test_greedy_with_a_repetition_penalty() -> None:
    logits = np.array([[2.0, 3.0]], dtype=np.float32)
    params = SamplingParams(repetition_penalty=2.0)
    assert sample_tokens(logits, params, (), [TokenHistory(np.array([0]))]).tolist() == [1]
    assert sample_tokens(logits, params, (), [TokenHistory(np.array([1]))]).tolist() == [0]


def test_the_draw_inverts_the_cumulative_distribution() -> None:
    cumulative = np.cumsum(P)
    uniform = TorchGenerator(11).rand((500,), dtype="float64")
    expected = [int(np.argmax(cumulative > u)) for u in uniform]
    assert draws(LOGITS, WARM, 500, seed=11).tolist() == expected


@pytest.mark.any_python
def test_frequencies() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((1, 20)).astype(np.float32)
    p = probabilities(logits)[0]
    tokens = draws(logits, WARM, 20_000)
    limit = 19 + 5 * np.sqrt(2 * 19)
    assert chi_square(tokens, p) < limit
    # The same test finds a temperature that is 10 % off.
    wrong = probabilities(logits / 1.1)[0]
    assert chi_square(tokens, wrong) > limit


def test_an_excluded_token_never_comes() -> None:
    logits = np.array([[-np.inf, 1.0, -np.inf, 0.0, -np.inf]], dtype=np.float32)
    assert set(draws(logits, WARM, 500).tolist()) == {1, 3}


class Fixed(TorchGenerator):
    """Always draws the same number."""

    def __init__(self, u: float) -> None:
        super().__init__(0)
        self.u = u

    def rand(self, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
        return np.full(shape, self.u, dtype=dtype)


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_stay_inside(u: float) -> None:
    logits = np.random.default_rng(1).standard_normal((200, 97)).astype(np.float32)
    logits[:, [0, 50, 96]] = -np.inf
    tokens = sample_tokens(logits, WARM, [Fixed(u)] * 200, ())
    assert set(tokens.tolist()) == {1 if u == 0 else 95}


def test_each_row_has_its_own_generator() -> None:
    logits = np.random.default_rng(2).standard_normal((3, 256)).astype(np.float32)
    together = sample_tokens(logits, WARM, [TorchGenerator(s) for s in (5, 6, 7)], ())
    alone = [int(sample_tokens(logits[i : i + 1], WARM, [TorchGenerator(5 + i)], ())[0]) for i in range(3)]
    assert together.tolist() == alone


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1e-30, top_p=0.9),
        SamplingParams(temperature=1e30, top_k=2),
        SamplingParams(temperature=1e-30, repetition_penalty=1e-30),
        SamplingParams(temperature=1e-30, repetition_penalty=1e30),
    ],
)
def test_extreme_settings_and_logits_do_not_overflow(params: SamplingParams) -> None:
    logits = np.array([[-3e38, 3e38, 0.0], [3e38, 3e38, -3e38]], dtype=np.float32)
    history = [TokenHistory(np.array(ids)) for ids in ([0], [0, 1, 2])]
    assert np.isfinite(
        process_logits(logits, history, SamplingParams(**{**vars(params), "top_k": 0, "top_p": 1.0}))
    ).all()
    assert (sample_tokens(logits, params, [TorchGenerator(0)] * 2, history) < 3).all()


def test_half_precision_logits() -> None:
    assert sample_tokens(LOGITS.astype(np.float16), WARM, [Fixed(0.5)], ()).tolist() == [1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("params", [SamplingParams(), WARM])
def test_logits_that_are_not_finite(value: float, params: SamplingParams) -> None:
    logits = np.zeros((3, 4), dtype=np.float32)
    logits[2, 1] = value
    with pytest.raises(EngineError, match="row 2 has logits that are NaN or infinite\nrun `aigc-run verify`"):
        sample_tokens(logits, params, [TorchGenerator(0)] * 3, ())


def test_a_row_with_no_possible_token() -> None:
    with pytest.raises(EngineError, match="row 0"):
        sample_tokens(np.full((1, 4), -np.inf, dtype=np.float32), WARM, [TorchGenerator(0)], ())


def test_a_history_beyond_the_vocabulary() -> None:
    history = [TokenHistory(np.array([1, 4]))]
    with pytest.raises(InputError, match="the history of row 0 holds token 4\ntoken ids are integers from 0 to 3"):
        sample_tokens(LOGITS, SamplingParams(repetition_penalty=1.5), (), history)


def test_numbers_of_rows_that_disagree() -> None:
    with pytest.raises(InputError, match="a history of 2 rows for 1 rows of logits"):
        process_logits(LOGITS, [TokenHistory(np.array([0]))] * 2, SamplingParams(repetition_penalty=1.5))
    with pytest.raises(InputError, match="2 generators for 1 rows of logits"):
        sample_tokens(LOGITS, WARM, [TorchGenerator(0)] * 2, ())
