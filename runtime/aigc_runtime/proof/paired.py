"""What two generators do with the same seeds and texts, side by side: measures, and the limits they are held against.

Pairing takes the luck of the draw out: a difference of 0.1 % in perplexity is seen on some hundred windows of text,
where the perplexities of two draws differ by several per cent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aigc_runtime.bundle.manifest import Tolerances

__all__ = ["PAIRED", "PairedCheck", "PairedMetric", "check_paired", "named"]

PAIRED: Mapping[str, bool] = MappingProxyType(
    {"ppl_increase": False, "top1_agreement": True, "psnr_db": True, "step_sqnr_db": True}
)
"""Measure -> whether more is better.

`ppl_increase`: perplexity / PyTorch's - 1. `top1_agreement`: share of positions with the same likeliest token.
`psnr_db`: of generated images, 10 log10(range^2 / mean squared error) over the reference's own range. `step_sqnr_db`:
of the model's output on PyTorch's own trajectory, at the worst step.
"""


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
        name: key of `PAIRED`.
        value: measured.
        standard_error: of `value`, over the samples; 0 where it is a worst case.
        samples: windows of text, images, or steps.
        data: what it was measured on; empty for what the models generate themselves.
    """

    name: str
    value: float
    standard_error: float
    samples: int
    data: str = ""

    @property
    def higher_is_better(self) -> bool:
        """Direction."""
        return PAIRED[self.name]


@dataclass(frozen=True, kw_only=True)
class PairedCheck:
    """A measure and its limit; None where it is only told."""

    metric: PairedMetric
    limit: float | None
    passed: bool


def check_paired(metrics: Iterable[PairedMetric], tolerances: Tolerances) -> tuple[PairedCheck, ...]:
    """Hold paired measures against a bundle's limits; NaN never passes.

    `psnr_db` against `min_psnr_db`, `ppl_increase` against `max_quality_drop`; the others are told.
    """
    limits = {"psnr_db": tolerances.min_psnr_db, "ppl_increase": tolerances.max_quality_drop}
    checks = []
    for metric in metrics:
        limit = limits.get(metric.name)
        passed = limit is None or (metric.value >= limit if metric.higher_is_better else metric.value <= limit)
        checks.append(PairedCheck(metric=metric, limit=limit, passed=passed))
    return tuple(checks)
