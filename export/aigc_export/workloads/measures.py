"""Measures of a candidate beside its reference: their names, directions and units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aigc_runtime.bundle.manifest import QualityResult
from aigc_runtime.proof.paired import PairedMetric

__all__ = ["IMAGE_MEASURES", "PSNR", "Measure", "Unit"]

Unit = Literal["decibels", "increase", "share", "number"]
"""`increase`: of a loss over PyTorch's own, 0 for none. `share`: of one."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measure.

    Attributes:
        name: of the measured value.
        unit: how its values and limits are written.
        higher_is_better: its direction.
        written: its name in a budget; empty for `name`.
        is_task: whether it is the task's own metric, of which both sides have a value; else it is paired.
        limit: name of the tolerance that it is held against; None where it is only reported.
    """

    name: str
    unit: Unit
    higher_is_better: bool
    written: str = ""
    is_task: bool = False
    limit: str | None = None

    @property
    def budget_name(self) -> str:
        """The name in a budget."""
        return self.written or self.name

    def paired(self, value: float, *, standard_error: float, samples: int, data: str = "") -> PairedMetric:
        """Make a paired value; see `PairedMetric`."""
        return PairedMetric(
            name=self.name,
            value=value,
            standard_error=standard_error,
            samples=samples,
            data=data,
            higher_is_better=self.higher_is_better,
            limit=self.limit,
        )

    def of_both(self, reference: float, candidate: float, *, data: str) -> QualityResult:
        """Make the result of a task's own metric on both sides."""
        return QualityResult(
            metric=self.name,
            reference=reference,
            bundle=candidate,
            higher_is_better=self.higher_is_better,
            data=data,
            limit=self.limit,
        )


PSNR = Measure(name="psnr_db", written="psnr", unit="decibels", higher_is_better=True, limit="min_psnr_db")
"""Of generated images: 10 log10(range^2 / mean squared error), over the reference's own range."""
CLASS_ACCURACY = Measure(
    name="class_accuracy", unit="share", higher_is_better=True, is_task=True, limit="max_quality_drop"
)
FRECHET_DISTANCE = Measure(
    name="frechet_distance", unit="number", higher_is_better=False, is_task=True, limit="max_quality_drop"
)
IMAGE_MEASURES = (PSNR, CLASS_ACCURACY, FRECHET_DISTANCE)
"""What generated images have; the metrics of the task only where one knows the model's data."""
