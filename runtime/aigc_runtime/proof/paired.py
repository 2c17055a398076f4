"""What two generators do with the same seeds and texts, side by side: measures, and the limits they are held against.

Pairing takes the luck of the draw out: a difference of 0.1 % in perplexity is seen on some hundred windows of text,
where the perplexities of two draws differ by several per cent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aigc_runtime.bundle.manifest import Tolerances

__all__ = ["PairedCheck", "PairedMetric", "check_paired", "named"]


def named(metric: str, data: str) -> str:
    """A metric with what it was measured on, as tables show it.

    >>> named("bits_per_byte", "held-out part of 'poems'")
    "bits_per_byte on held-out part of 'poems'"
    >>> named("psnr_db", "")
    'psnr_db'
    """
    return f"{metric} on {data}" if data else metric


@dataclass(frozen=True, kw_only=True)
class PairedMetric:
    """One measure.

    Attributes:
        name: of the measure.
        value: measured.
        standard_error: of `value`, over the samples; 0 where it is a worst case.
        samples: windows of text, images, or steps.
        data: what it was measured on; empty for what the models generate themselves.
        higher_is_better: its direction.
        limit: name of the tolerance that it is held against; None where it is only told.
    """

    name: str
    value: float
    standard_error: float
    samples: int
    data: str = ""
    higher_is_better: bool = True
    limit: str | None = None


@dataclass(frozen=True, kw_only=True)
class PairedCheck:
    """A measure and its limit; None where it is only told."""

    metric: PairedMetric
    limit: float | None
    passed: bool


def check_paired(metrics: Iterable[PairedMetric], tolerances: Tolerances) -> tuple[PairedCheck, ...]:
    """Hold paired measures against a bundle's limits; NaN never passes."""
    limits = tolerances.limits()
    checks = []
    for metric in metrics:
        limit = None if metric.limit is None else limits[metric.limit]
        passed = limit is None or (metric.value >= limit if metric.higher_is_better else metric.value <= limit)
        checks.append(PairedCheck(metric=metric, limit=limit, passed=passed))
    return tuple(checks)
