"""The one set of measures by which two results are compared, on the host and on the device.

Every verdict fails closed: NaN, infinity, another shape or an empty array never passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from aigc_runtime.errors import ConfigError
from aigc_runtime.tensors import Array

__all__ = [
    "TensorErrors",
    "Tolerance",
    "Verdict",
    "compare_arrays",
    "judge",
    "psnr_db",
    "token_agreement",
]

EXACT_DB = 400.0
"""Decibels reported for identical arrays: finite, so that JSON can hold it, and beyond what float64 can give."""

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class TensorErrors:
    """How far an array is from its reference.

    Attributes:
        max_abs: largest absolute difference.
        mean_abs: mean absolute difference.
        cosine: of the angle between the two as vectors; 1 if both are zero, 0 if one is.
        sqnr_db: signal to quantisation noise, 10 log10(sum r^2 / sum (r - a)^2), in dB; `EXACT_DB` if identical.
        worst_index: where the largest difference is.
        reference_at_worst: the reference's value there.
        actual_at_worst: the other's value there.
        n: elements compared.
        problem: why the arrays cannot be compared at all; empty if they can.
    """

    max_abs: float
    mean_abs: float
    cosine: float
    sqnr_db: float
    worst_index: tuple[int, ...]
    reference_at_worst: float
    actual_at_worst: float
    n: int
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Explicit limits; None leaves a measure unlimited, but at least one must be set.

    Attributes:
        max_abs: upper limit of `TensorErrors.max_abs`.
        mean_abs: upper limit of `TensorErrors.mean_abs`.
        min_cosine: lower limit of `TensorErrors.cosine`.
        min_sqnr_db: lower limit of `TensorErrors.sqnr_db`.
    """

    max_abs: float | None = None
    mean_abs: float | None = None
    min_cosine: float | None = None
    min_sqnr_db: float | None = None

    def __post_init__(self) -> None:
        limits = (self.max_abs, self.mean_abs, self.min_cosine, self.min_sqnr_db)
        if all(limit is None for limit in limits):
            raise ConfigError("a tolerance without any limit", hint="set at least one of its fields")
        if any(limit is not None and not math.isfinite(limit) for limit in limits):
            raise ConfigError(f"a tolerance with a limit that is not finite: {self}", hint="use None for no limit")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether errors are within a tolerance.

    Attributes:
        passed: True only if every limit holds.
        reasons: one sentence per limit that is missed.
    """

    passed: bool
    reasons: tuple[str, ...]


def _incomparable(problem: str, n: int) -> TensorErrors:
    return TensorErrors(
        max_abs=0.0,
        mean_abs=0.0,
        cosine=0.0,
        sqnr_db=0.0,
        worst_index=(),
        reference_at_worst=0.0,
        actual_at_worst=0.0,
        n=n,
        problem=problem,
    )


def compare_arrays(reference: Array, actual: Array) -> TensorErrors:
    """Measure how far `actual` is from `reference`, accumulating in float64.

    >>> compare_arrays(np.array([1.0, 2.0]), np.array([1.0, 2.5])).max_abs
    0.5
    >>> compare_arrays(np.zeros(2), np.zeros(3)).problem
    'shape (3,), expected (2,)'
    """
    if reference.shape != actual.shape:
        return _incomparable(f"shape {actual.shape}, expected {reference.shape}", reference.size)
    if (reference.dtype.kind in "iub") != (actual.dtype.kind in "iub"):
        return _incomparable(f"dtype {actual.dtype}, expected {reference.dtype}", reference.size)
    if reference.size == 0:
        return _incomparable("both arrays are empty: nothing was compared", 0)
    r_flat, a_flat = reference.reshape(-1), actual.reshape(-1)
    sum_abs = noise = rr = aa = ra = 0.0
    worst, worst_at = -1.0, 0
    for start in range(0, reference.size, _CHUNK):
        r = r_flat[start : start + _CHUNK].astype(np.float64)
        a = a_flat[start : start + _CHUNK].astype(np.float64)
        for name, values in (("the reference", r), ("the result", a)):
            if not np.isfinite(values).all():
                bad = int((~np.isfinite(values)).sum())
                return _incomparable(f"{name} holds NaN or infinity ({bad} values)", reference.size)
        gap = np.abs(r - a)
        if gap.max() > worst:
            worst, worst_at = float(gap.max()), start + int(gap.argmax())
        sum_abs += float(gap.sum())
        noise += float(gap @ gap)
        rr, aa, ra = rr + float(r @ r), aa + float(a @ a), ra + float(r @ a)
    return TensorErrors(
        max_abs=worst,
        mean_abs=sum_abs / reference.size,
        cosine=_cosine(rr, aa, ra),
        sqnr_db=_decibels(rr, noise),
        worst_index=tuple(int(i) for i in np.unravel_index(worst_at, reference.shape)),
        reference_at_worst=float(r_flat[worst_at]),
        actual_at_worst=float(a_flat[worst_at]),
        n=reference.size,
    )


def _cosine(rr: float, aa: float, ra: float) -> float:
    if rr == 0.0 and aa == 0.0:
        return 1.0
    if rr == 0.0 or aa == 0.0:
        return 0.0
    return min(1.0, max(-1.0, ra / math.sqrt(rr) / math.sqrt(aa)))


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return EXACT_DB
    if signal == 0.0:
        return -EXACT_DB
    return min(EXACT_DB, max(-EXACT_DB, 10 * math.log10(signal / noise)))


def judge(errors: TensorErrors, tolerance: Tolerance) -> Verdict:
    """Hold errors against a tolerance.

    >>> e = compare_arrays(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    >>> judge(e, Tolerance(max_abs=0.1)).reasons
    ('max_abs is 0.5, at most 0.1 is allowed (at [1]: 2 became 2.5)',)
    """
    if errors.problem:
        return Verdict(passed=False, reasons=(errors.problem,))
    reasons = []
    where = f"at {list(errors.worst_index)}: {errors.reference_at_worst:.6g} became {errors.actual_at_worst:.6g}"
    if tolerance.max_abs is not None and not errors.max_abs <= tolerance.max_abs:
        reasons.append(f"max_abs is {errors.max_abs:.3g}, at most {tolerance.max_abs:g} is allowed ({where})")
    if tolerance.mean_abs is not None and not errors.mean_abs <= tolerance.mean_abs:
        reasons.append(f"mean_abs is {errors.mean_abs:.3g}, at most {tolerance.mean_abs:g} is allowed")
    if tolerance.min_cosine is not None and not errors.cosine >= tolerance.min_cosine:
        reasons.append(f"cosine is {errors.cosine:.8f}, at least {tolerance.min_cosine:g} is needed")
    if tolerance.min_sqnr_db is not None and not errors.sqnr_db >= tolerance.min_sqnr_db:
        reasons.append(f"sqnr_db is {errors.sqnr_db:.1f}, at least {tolerance.min_sqnr_db:g} is needed")
    return Verdict(passed=not reasons, reasons=tuple(reasons))


def psnr_db(reference: Array, actual: Array, *, data_range: float = 2.0) -> float:
    """Peak signal-to-noise ratio, 10 log10(range^2 / mean squared error), in dB; `EXACT_DB` if identical.

    Args:
        reference: images.
        actual: images of the same shape.
        data_range: largest minus smallest possible value; 2 for images in [-1, 1], see `sample_range`.

    Returns:
        Minus `EXACT_DB` for arrays that cannot be compared, so that no limit is met.
    """
    errors = compare_arrays(reference, actual)
    if errors.problem:
        return -EXACT_DB
    mse = float(np.mean((reference.astype(np.float64) - actual.astype(np.float64)) ** 2))
    return _decibels(data_range**2, mse)


def token_agreement(reference: Array, actual: Array) -> float:
    """Share of positions at which two token sequences agree; what one has beyond the other's end counts as wrong.

    >>> token_agreement(np.array([1, 2, 3, 4]), np.array([1, 2, 9, 4]))
    0.75
    """
    longest = max(len(reference), len(actual))
    shared = min(len(reference), len(actual))
    if longest == 0:
        return 0.0
    return float((reference[:shared] == actual[:shared]).sum()) / longest
