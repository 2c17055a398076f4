"""Say by how much the noise of an engine's outputs must fall until it is within its limits."""

from __future__ import annotations

import math
from collections.abc import Iterator

from aigc_runtime.core.compare import TensorErrors, Tolerance
from aigc_runtime.proof.paired import PairedCheck
from aigc_runtime.proof.verify import ParityReport

__all__ = ["HALVED_DB", "missing_db"]

HALVED_DB = 3.0
"""Asked for where what is missed says nothing of noise, as the share of equal tokens does."""


def missing_db(report: ParityReport, tolerance: Tolerance, *, engine: str | None = None) -> float | None:
    """Compute by how many decibels the noise must fall: the most of what any limit that is missed asks for.

    Signal-to-noise ratios and PSNR fall by one for each decibel of noise. A cosine's distance from 1, and while they
    are small the increase of a loss and the drop of a metric, are in proportion to the noise; the largest error is to
    its root.

    Args:
        report: of parity.
        tolerance: limits of its tensors.
        engine: whose tensors count; None: all tensors, the generation and the quality.

    Returns:
        0 where nothing is missed; None where less noise would not help: nothing was compared, shapes or tokens of
        texts differ, a number is not finite.
    """
    tensors = [c for c in report.tensors if engine in (None, c.engine)]
    whole = engine is None
    if not tensors or any(c.errors.problem for c in tensors):
        return None
    if whole and report.text is not None and not report.text.passed:
        return None
    found = [_of_tensor(c.errors, tolerance) for c in tensors if not c.passed]
    if whole:
        found += _of_whole(report)
    return max(found, default=0.0) if all(map(math.isfinite, found)) else None


def _of_tensor(errors: TensorErrors, limits: Tolerance) -> float:
    asked = [0.0]
    if limits.min_sqnr_db is not None:
        asked.append(limits.min_sqnr_db - errors.sqnr_db)
    if limits.min_cosine is not None and errors.cosine < limits.min_cosine:
        asked.append(_in_proportion(1 - errors.cosine, 1 - limits.min_cosine))
    if limits.max_over_rms is not None:
        asked.append(2 * _in_proportion(errors.max_over_rms, limits.max_over_rms))
    return max(asked)


def _of_whole(report: ParityReport) -> Iterator[float]:
    generation = report.generation
    if not generation.passed:
        of_noise = generation.metric.endswith("_db")
        yield generation.limit - generation.value if of_noise else HALVED_DB
    for quality in report.quality:
        if not quality.passed and quality.limit is not None:
            yield _in_proportion(quality.drop, quality.limit)
    yield from (_of_paired(check) for check in report.paired if not check.passed)


def _of_paired(check: PairedCheck) -> float:
    metric, limit = check.metric, check.limit
    assert limit is not None, "what has no limit is not missed"
    if metric.name.endswith("_db"):
        return limit - metric.value
    return HALVED_DB if metric.higher_is_better else _in_proportion(metric.value, limit)


def _in_proportion(value: float, limit: float) -> float:
    """By how many decibels a value that grows with the noise must fall to its limit."""
    if not math.isfinite(value):
        return math.inf
    return 10 * math.log10(value / limit) if value > 0 and limit > 0 else HALVED_DB
