"""The measures against their definitions, and verdicts that fail closed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aigc_runtime.core.compare import EXACT_DB, UNRELATED, Tolerance, compare_arrays, judge, psnr_db, token_agreement
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
    assert found.max_over_rms == pytest.approx(gap.max() / np.sqrt((r64**2).mean()), rel=1e-12)
    peak = r64.max() - r64.min()
    assert psnr_db(r, a) == pytest.approx(10 * np.log10(peak**2 / ((r64 - a64) ** 2).mean()), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 31.0, 1e3, 1e30])
def test_relative_measures_do_not_know_the_scale(scale: float) -> None:
    rng = np.random.default_rng(1)
    r = rng.standard_normal((64, 9))
    a = r + 1e-3 * rng.standard_normal(r.shape)
    plain, found = compare_arrays(r, a), compare_arrays(r * scale, a * scale)
    assert found.max_over_rms == pytest.approx(plain.max_over_rms)
    assert found.sqnr_db == pytest.approx(plain.sqnr_db)
    assert found.cosine == pytest.approx(plain.cosine)
    assert psnr_db(r * scale, a * scale) == pytest.approx(psnr_db(r, a))
    assert found.max_abs == pytest.approx(plain.max_abs * scale)


def test_one_huge_outlier_hides_nothing() -> None:
    """A vocabulary padded with -1e9: the other logits are measured as if the padding were not there."""
    rng = np.random.default_rng(2)
    r = rng.standard_normal((10, 256)).astype(np.float32)
    a = (r + 0.1 * rng.standard_normal(r.shape)).astype(np.float32)
    plain = compare_arrays(r, a)
    r[:, -2:] = a[:, -2:] = -1e9
    found = compare_arrays(r, a)
    assert found.sqnr_db < 41  # the bound is 100 medians: two of 256 such logits still weigh as much as 35 others each
    assert found.max_over_rms > plain.max_over_rms / 10
    assert psnr_db(r, a) < 70
    assert 10 * np.log10((r.astype(float) ** 2).sum() / ((r.astype(float) - a) ** 2).sum()) > 150


def test_an_outlier_may_be_off_by_its_own_rounding() -> None:
    r = np.random.default_rng(3).standard_normal(1000).astype(np.float32)
    r[7] = 1e8
    a = r.copy()
    a[7] = np.nextafter(np.float32(1e8), np.float32(np.inf))
    found = compare_arrays(r, a)
    assert found.max_abs == 8.0
    assert found.max_over_rms < 1e-4
    assert found.sqnr_db > 110


def test_more_than_a_few_large_elements_are_no_outliers() -> None:
    r = np.full(1000, 1e-3)
    r[:50] = 1.0
    a = r + 1e-2
    expected = 10 * np.log10((r**2).sum() / (1000 * 1e-4))
    assert compare_arrays(r, a).sqnr_db == pytest.approx(expected)


def test_a_constant_is_its_own_scale() -> None:
    found = compare_arrays(np.full(8, -3.0), np.full(8, -3.03))
    assert found.max_over_rms == pytest.approx(0.01)
    assert found.sqnr_db == pytest.approx(40.0)
    assert psnr_db(np.full(8, -3.0), np.full(8, -3.03)) == pytest.approx(40.0)
    assert psnr_db(np.zeros(8), np.full(8, 1e-30)) == -EXACT_DB
    assert psnr_db(np.zeros(8), np.zeros(8)) == EXACT_DB
    assert compare_arrays(np.zeros(8), np.full(8, 1e-30)).max_over_rms == UNRELATED


def test_integers_are_measured_like_numbers() -> None:
    found = compare_arrays(np.array([3, 4]), np.array([3, 5]))
    assert found.max_abs == 1.0
    assert found.max_over_rms == pytest.approx(1 / math.sqrt(12.5))


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


LOOSE = Tolerance(max_over_rms=0.999, min_cosine=1e-9, min_sqnr_db=1e-9)


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
        (Tolerance(max_over_rms=0.31), "max_over_rms is 0.316, at most 0.31 is allowed (at [1]: 2 became 2.5)"),
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
    assert judge(errors, Tolerance(max_over_rms=0.32, min_cosine=0.99, min_sqnr_db=13.0)).passed


def test_a_tolerance_must_limit_something() -> None:
    with pytest.raises(ConfigError, match="without any limit"):
        Tolerance()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0, 1e300])
@pytest.mark.parametrize("name", ["max_over_rms", "min_cosine", "min_sqnr_db"])
def test_a_limit_that_can_never_fail_or_never_hold_is_refused(name: str, bad: float) -> None:
    with pytest.raises(ConfigError, match=f"the limit {name} is"):
        Tolerance(**{name: bad})


@pytest.mark.parametrize(("name", "edge"), [("max_over_rms", 1.0), ("min_cosine", 0.0), ("min_sqnr_db", 0.0)])
def test_an_output_of_zeros_never_passes(name: str, edge: float) -> None:
    errors = compare_arrays(np.array([1.0, 1.0, -1.0]), np.zeros(3))
    with pytest.raises(ConfigError, match="never fail"):
        Tolerance(**{name: edge})
    nearest = np.nextafter(edge, 1 - edge)
    assert not judge(errors, Tolerance(**{name: float(nearest)})).passed


@pytest.mark.parametrize(
    ("reference", "actual", "share"),
    [([], [], 0.0), ([1], [], 0.0), ([1, 2], [1, 2], 1.0), ([1, 2], [1, 2, 3, 4], 0.5), ([5, 2, 3], [1, 2], 1 / 3)],
)
def test_token_agreement(reference: list[int], actual: list[int], share: float) -> None:
    assert token_agreement(np.array(reference), np.array(actual)) == pytest.approx(share)
