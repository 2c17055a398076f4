"""What an export measured on the engine that it published, beside PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aigc_runtime.errors import ConfigError

__all__ = ["Measured", "MeasuredValue"]


@dataclass(frozen=True, kw_only=True)
class MeasuredValue:
    """A measure of the engine beside PyTorch; see `proof.paired.PairedMetric`."""

    name: str
    value: float
    standard_error: float
    samples: int
    data: str

    def __post_init__(self) -> None:
        for number in (self.value, self.standard_error):
            if not math.isfinite(number):
                raise ConfigError(f"{self.name} is {number}", hint="must be a finite number")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The result of the export's own checks.

    Attributes:
        min_sqnr_db: ratio of signal to noise of the worst tensor of all reference cases.
        generation: agreement of the whole generation, by the metric of the kind of pipeline.
        paired: measures over samples; empty where no quality was measured.
    """

    min_sqnr_db: float
    generation: float
    paired: tuple[MeasuredValue, ...]
