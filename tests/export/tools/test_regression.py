"""Limits of cost: what they read, and that noise alone fails none, by the binomial distribution of SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from aigc_export.tools.regression import MIN_ROUNDS, check_latency, check_size, median_interval, parse_limit
from aigc_export.tools.timing import SideBySide
from aigc_runtime.errors import ConfigError


def timing(pairs: list[tuple[float, float]]) -> SideBySide:
    return SideBySide(reference_ms=1.0, candidate_ms=1.0, speedup=1.0, rounds=tuple(pairs))


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9, 15, 16, 40])
def test_the_interval_is_that_of_the_binomial(n: int) -> None:
    values = list(np.random.default_rng(n).permutation(n).astype(float))
    low, high = median_interval(values)
    assert low == n - 1 - high
    if n >= 6:
        # As many values are left out below as keep the chance that the median lies lower within 2.5 %, and no more.
        assert stats.binom.cdf(low, n, 0.5) <= 0.025 < stats.binom.cdf(low + 1, n, 0.5)
    else:
        assert low == 0


def test_noise_alone_fails_rarely() -> None:
    """The true increase is the limit itself, the noise is heavy-tailed: at most 2.5 % fail."""
    rng, limit = np.random.default_rng(0), parse_limit("10%", "latency", increase=True)
    failed = 0
    for _ in range(2000):
        a, b = 1 + 0.05 * np.abs(rng.standard_t(2, MIN_ROUNDS)), 1 + 0.05 * np.abs(rng.standard_t(2, MIN_ROUNDS))
        failed += not check_latency(limit, timing([(x, 1.1 * y) for x, y in zip(a, b, strict=True)])).passed
    assert 0 < failed / 2000 <= 0.025 + 3 * (0.025 * 0.975 / 2000) ** 0.5


def test_a_cost_beyond_the_noise_fails() -> None:
    rng, limit = np.random.default_rng(0), parse_limit("10%", "latency", increase=True)
    pairs = [(1 + 0.02 * rng.random(), 1.3 + 0.02 * rng.random()) for _ in range(MIN_ROUNDS)]
    check = check_latency(limit, timing(pairs))
    assert not check.passed
    assert "FAIL" in str(check)
    assert check.measured == pytest.approx(float(np.median([b / a - 1 for a, b in pairs])))
    doubtful = check_latency(limit, timing([(1.0, 1.0), (1.0, 1.15), (1.0, 1.2)]))
    assert doubtful.passed
    assert "beyond the limit by less than the noise" in str(doubtful)


def test_sizes_are_exact() -> None:
    for text, increase, passed in (
        ("5%", True, True),
        ("4.9%", True, False),
        ("50", True, True),
        ("49", True, False),
        ("1.05kB", False, True),
        ("1049", False, False),
        ("2KiB", False, True),
    ):
        check = check_size(parse_limit(text, "size", increase=increase), baseline_bytes=1000, size_bytes=1050)
        assert (check.passed, check.low) == (passed, check.high), text


@pytest.mark.parametrize(
    "text", ["", "five", "5 %%", "-5%", "1e3", "5mb", "0.5", "nan", "5ms", "9" * 400, "9" * 400 + "%", "٣"]
)
def test_what_is_no_limit_of_a_size(text: str) -> None:
    with pytest.raises(ConfigError, match="is no"):
        parse_limit(text, "size", increase=True)
    with pytest.raises(ConfigError):
        parse_limit("5%", "size", increase=False)
