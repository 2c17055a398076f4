"""The one set of measures by which two results are compared, on the host and on the device.

Limits are relative to the reference's own scale, so that a model whose outputs are a thousand times larger is held to
the same. Every verdict fails closed: NaN, infinity, another shape or an empty array never passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError

__all__ = [
    "DECIBELS",
    "EXACT_DB",
    "UNRELATED",
    "TensorErrors",
    "Tolerance",
    "Verdict",
    "compare_arrays",
    "judge",
    "psnr_db",
    "require_limit",
    "token_agreement",
]

EXACT_DB = 400.0
"""Decibels reported for identical arrays: finite, so that JSON can hold it, and beyond what float64 can give."""

UNRELATED = 1e30
"""`TensorErrors.max_over_rms` where the reference is zero and the result is not: finite, for the same reason."""
OUTLIER = 100.0
"""A magnitude beyond this many medians is an outlier ..."""
OUTLIER_SHARE = 0.02
"""... where no more than this share of all elements is. Vocabularies that are padded with logits of -1e9, or a single
broken pixel, would otherwise be all that a ratio of energies sees."""

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class TensorErrors:
    """How far an array is from its reference.

    In the relative measures an outlier of the reference (`OUTLIER`) counts as if it were at that bound, its difference
    scaled down with it: r and a below are then w r and w a, w = bound / |r|.

    Attributes:
        max_abs: largest absolute difference.
        mean_abs: mean absolute difference.
        max_over_rms: largest difference relative to the reference's root mean square, max |r - a| / sqrt(mean r^2);
            0 if identical, `UNRELATED` if the reference alone is zero.
        cosine: of the angle between the two as vectors; 1 if both are zero, 0 if one is.
        sqnr_db: signal to quantization noise, 10 log10(sum r^2 / sum (r - a)^2), in dB; `EXACT_DB` if identical.
        worst_index: where `max_over_rms` is.
        reference_at_worst: the reference's value there.
        actual_at_worst: the other's value there.
        n: elements compared.
        problem: why the arrays cannot be compared at all; empty if they can.
    """

    max_abs: float
    mean_abs: float
    max_over_rms: float
    cosine: float
    sqnr_db: float
    worst_index: tuple[int, ...]
    reference_at_worst: float
    actual_at_worst: float
    n: int
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Explicit limits, all relative to the reference; None leaves a measure unlimited, but one must be set.

    Attributes:
        max_over_rms: upper limit of `TensorErrors.max_over_rms`, below 1: an output of zeros has 1 or more.
        min_cosine: lower limit of `TensorErrors.cosine`, above 0: an output of zeros has 0.
        min_sqnr_db: lower limit of `TensorErrors.sqnr_db`, above 0: an output of zeros has 0.

    Raises:
        ConfigError: no limit, or one that can never fail or never hold.
    """

    max_over_rms: float | None = None
    min_cosine: float | None = None
    min_sqnr_db: float | None = None

    def __post_init__(self) -> None:
        if self.max_over_rms is None and self.min_cosine is None and self.min_sqnr_db is None:
            raise ConfigError("a tolerance without any limit", hint="set at least one of its fields")
        require_limit("max_over_rms", self.max_over_rms, "at least 0 and below 1", lambda x: 0 <= x < 1)
        require_limit("min_cosine", self.min_cosine, "above 0 and at most 1", lambda x: 0 < x <= 1)
        require_limit("min_sqnr_db", self.min_sqnr_db, DECIBELS, lambda x: 0 < x <= EXACT_DB)


DECIBELS = f"above 0 and at most {EXACT_DB:g}"


def require_limit(name: str, value: float | None, allowed: str, holds: Callable[[float], bool]) -> None:
    """Refuse a limit that can never fail, or never hold; None is no limit.

    Raises:
        ConfigError: says what is allowed.
    """
    if value is not None and not (math.isfinite(value) and holds(value)):
        raise ConfigError(f"the limit {name} is {value:g}", hint=f"must be {allowed}; others never fail or never hold")


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
        max_over_rms=UNRELATED,
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
    bound = _outlier_bound(r_flat)
    max_abs = sum_abs = noise = rr = aa = ra = 0.0
    worst, worst_at = -1.0, 0
    for start in range(0, reference.size, _CHUNK):
        r = r_flat[start : start + _CHUNK].astype(np.float64)
        a = a_flat[start : start + _CHUNK].astype(np.float64)
        for name, values in (("the reference", r), ("the result", a)):
            if not np.isfinite(values).all():
                bad = int((~np.isfinite(values)).sum())
                return _incomparable(f"{name} holds NaN or infinity ({bad} values)", reference.size)
        gap = np.abs(r - a)
        max_abs, sum_abs = max(max_abs, float(gap.max())), sum_abs + float(gap.sum())
        r, a = _tempered(r, a, bound)
        gap = np.abs(r - a)
        if gap.max() > worst:
            worst, worst_at = float(gap.max()), start + int(gap.argmax())
        noise += float(gap @ gap)
        rr, aa, ra = rr + float(r @ r), aa + float(a @ a), ra + float(r @ a)
    return TensorErrors(
        max_abs=max_abs,
        mean_abs=sum_abs / reference.size,
        max_over_rms=_over(worst, math.sqrt(rr / reference.size)),
        cosine=_cosine(rr, aa, ra),
        sqnr_db=_decibels(rr, noise),
        worst_index=tuple(int(i) for i in np.unravel_index(worst_at, reference.shape)),
        reference_at_worst=float(r_flat[worst_at]),
        actual_at_worst=float(a_flat[worst_at]),
        n=reference.size,
    )


def _outlier_bound(reference: Array) -> float:
    """The magnitude from which on an element of [N] is an outlier; infinity if there is none."""
    magnitudes = np.abs(reference[:: max(1, reference.size // _CHUNK)].astype(np.float64))
    magnitudes = magnitudes[magnitudes > 0]
    if not len(magnitudes) or not np.isfinite(magnitudes).all():
        return math.inf
    bound = OUTLIER * float(np.median(magnitudes))
    return bound if (magnitudes > bound).mean() <= OUTLIER_SHARE else math.inf


def _tempered(r: Array, a: Array, bound: float) -> tuple[Array, Array]:
    """Both, with outliers of the reference brought down to the bound."""
    if bound == math.inf:
        return r, a
    weight = bound / np.maximum(np.abs(r), bound)
    return r * weight, a * weight


def _over(error: float, scale: float) -> float:
    if error == 0.0:
        return 0.0
    return UNRELATED if scale == 0.0 else min(UNRELATED, error / scale)


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
    >>> judge(e, Tolerance(max_over_rms=0.1)).reasons
    ('max_over_rms is 0.316, at most 0.1 is allowed (at [1]: 2 became 2.5)',)
    """
    if errors.problem:
        return Verdict(passed=False, reasons=(errors.problem,))
    reasons = []
    where = f"at {list(errors.worst_index)}: {errors.reference_at_worst:.6g} became {errors.actual_at_worst:.6g}"
    if tolerance.max_over_rms is not None and not errors.max_over_rms <= tolerance.max_over_rms:
        reasons.append(
            f"max_over_rms is {errors.max_over_rms:.3g}, at most {tolerance.max_over_rms:.3g} is allowed ({where})"
        )
    if tolerance.min_cosine is not None and not errors.cosine >= tolerance.min_cosine:
        reasons.append(f"cosine is {errors.cosine:.8f}, at least {tolerance.min_cosine:g} is needed")
    if tolerance.min_sqnr_db is not None and not errors.sqnr_db >= tolerance.min_sqnr_db:
        reasons.append(f"sqnr_db is {errors.sqnr_db:.1f}, at least {tolerance.min_sqnr_db:.4g} is needed")
    return Verdict(passed=not reasons, reasons=tuple(reasons))


def psnr_db(reference: Array, actual: Array) -> float:
    """Peak signal-to-noise ratio, 10 log10(range^2 / mean squared error), in dB; `EXACT_DB` if identical.

    The range is the reference's own, largest minus smallest value (2 for images that fill [-1, 1]), so that latents or
    images of another scale are held to the same; for a constant, its magnitude. Outliers count as in `TensorErrors`.

    >>> round(psnr_db(np.array([-1.0, 1.0]), np.array([-1.0, 0.98])), 2)
    43.01

    Args:
        reference: images.
        actual: images of the same shape.

    Returns:
        Minus `EXACT_DB` for arrays that cannot be compared, so that no limit is met.
    """
    if compare_arrays(reference, actual).problem:
        return -EXACT_DB
    r, a = reference.reshape(-1).astype(np.float64), actual.reshape(-1).astype(np.float64)
    r, a = _tempered(r, a, _outlier_bound(r))
    data_range = float(r.max() - r.min()) or float(np.abs(r).max())
    return _decibels(data_range**2, float(np.mean((r - a) ** 2)))


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
