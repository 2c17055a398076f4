"""The measures against their definitions, and verdicts that fail closed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aigc_runtime.compare import EXACT_DB, Tolerance, compare_arrays, judge, psnr_db, token_agreement
from aigc_runtime.errors import ConfigError


def test_the_measures_are_their_definitions() -> None:
    rng = np.random.default_rng(0)
    r = rng.standard_normal((3, 5, 7)).astype(np.float32)
    a = (r + 0.01 * rng.standard_normal(r.shape)).astype(np.float32)
    found = compare_arrays(r, a)
    r64, a64 = r.astype(np.float64), a.astype(np.float64)
    gap = np.abs(r64 - a64)
    assert found.max_abs == gap.max()
    assert found.worst_index == np.unravel_index(gap.argmax(), r.shape)
    assert (found.reference_at_worst, found.actual_at_worst) == (r[found.worst_index], a[found.worst_index])
    assert found.mean_abs == pytest.approx(gap.mean(), rel=1e-12)
    assert found.cosine == pytest.approx((r64 * a64).sum() / np.linalg.norm(r64) / np.linalg.norm(a64), rel=1e-12)
    assert found.sqnr_db == pytest.approx(10 * np.log10((r64**2).sum() / ((r64 - a64) ** 2).sum()), rel=1e-12)
    assert found.n == r.size
    assert psnr_db(r, a) == pytest.approx(10 * np.log10(4 / ((r64 - a64) ** 2).mean()), rel=1e-12)
    assert psnr_db(r, a, data_range=1.0) == pytest.approx(psnr_db(r, a) - 20 * math.log10(2), rel=1e-12)


def test_arrays_longer_than_a_block_are_measured_whole() -> None:
    r = np.ones(3 * 2**20 + 5, dtype=np.float32)
    a = r.copy()
    a[-1] = 3.0
    found = compare_arrays(r, a)
    assert found.worst_index == (len(r) - 1,)
    assert found.max_abs == 2.0
    assert found.mean_abs == pytest.approx(2 / len(r))
    assert found.sqnr_db == pytest.approx(10 * math.log10(len(r) / 4))


@pytest.mark.parametrize(
    ("reference", "actual", "cosine", "sqnr"),
    [
        ([1.0, 2.0], [1.0, 2.0], 1.0, EXACT_DB),
        ([0.0, 0.0], [0.0, 0.0], 1.0, EXACT_DB),
        ([0.0, 0.0], [1.0, 0.0], 0.0, -EXACT_DB),
        ([1.0, 0.0], [0.0, 0.0], 0.0, 0.0),
        ([1.0, 0.0], [-1.0, 0.0], -1.0, -20 * math.log10(2)),
        ([1e200, 0.0], [1e200, 1e200], math.sqrt(0.5), 0.0),
    ],
)
def test_edges(reference: list[float], actual: list[float], cosine: float, sqnr: float) -> None:
    scale = 1e-60 if max(reference) > 1e100 else 1.0  # squares stay in range
    found = compare_arrays(np.array(reference) * scale, np.array(actual) * scale)
    assert found.cosine == pytest.approx(cosine)
    assert found.sqnr_db == pytest.approx(sqnr)


LOOSE = Tolerance(max_abs=1e30, mean_abs=1e30, min_cosine=-1.0, min_sqnr_db=-1e3)


@pytest.mark.parametrize(
    ("reference", "actual", "problem"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "shape (3, 2), expected (2, 3)"),
        (np.zeros(1), np.zeros(()), "shape"),
        (np.zeros(0), np.zeros(0), "nothing was compared"),
        (np.zeros(2), np.array([0.0, np.nan]), "the result holds NaN or infinity (1 values)"),
        (np.array([np.nan, np.inf]), np.zeros(2), "the reference holds NaN or infinity (2 values)"),
        (np.array([np.inf]), np.array([np.inf]), "NaN or infinity"),
        (np.zeros(2, np.int64), np.zeros(2, np.float32), "dtype float32, expected int64"),
        (np.zeros(2, np.float32), np.zeros(2, bool), "dtype bool, expected float32"),
    ],
)
def test_what_cannot_be_compared_never_passes(reference: np.ndarray, actual: np.ndarray, problem: str) -> None:
    found = compare_arrays(reference, actual)
    assert problem in found.problem
    verdict = judge(found, LOOSE)
    assert not verdict.passed
    assert verdict.reasons == (found.problem,)
    assert psnr_db(reference, actual) == -EXACT_DB


@pytest.mark.parametrize(
    ("tolerance", "reason"),
    [
        (Tolerance(max_abs=0.49), "max_abs is 0.5, at most 0.49 is allowed (at [1]: 2 became 2.5)"),
        (Tolerance(mean_abs=0.24), "mean_abs is 0.25"),
        (Tolerance(min_cosine=0.9999), "cosine is 0.99"),
        (Tolerance(min_sqnr_db=13.1), "sqnr_db is 13.0"),
    ],
)
def test_each_limit_alone_can_fail(tolerance: Tolerance, reason: str) -> None:
    errors = compare_arrays(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    verdict = judge(errors, tolerance)
    assert not verdict.passed
    assert len(verdict.reasons) == 1
    assert verdict.reasons[0].startswith(reason)
    assert judge(errors, Tolerance(max_abs=0.5, mean_abs=0.25, min_cosine=0.99, min_sqnr_db=13.0)).passed


def test_a_tolerance_must_limit_something() -> None:
    with pytest.raises(ConfigError, match="without any limit"):
        Tolerance()
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ConfigError, match="not finite"):
            Tolerance(max_abs=bad)


@pytest.mark.parametrize(
    ("reference", "actual", "share"),
    [([], [], 0.0), ([1], [], 0.0), ([1, 2], [1, 2], 1.0), ([1, 2], [1, 2, 3, 4], 0.5), ([5, 2, 3], [1, 2], 1 / 3)],
)
def test_token_agreement(reference: list[int], actual: list[int], share: float) -> None:
    assert token_agreement(np.array(reference), np.array(actual)) == pytest.approx(share)
