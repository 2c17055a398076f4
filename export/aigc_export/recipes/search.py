"""The configuration of a search for mixed precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aigc_calibration.search.workers import check_jobs
from aigc_export.recipes.budget import Budget
from aigc_export.workloads.base import Workload
from aigc_runtime.errors import ConfigError, UnknownNameError

__all__ = ["OBJECTIVES", "Objective", "SearchConfig"]

Objective = Literal["latency", "size", "ops"]
OBJECTIVES: tuple[Objective, ...] = ("latency", "size", "ops")
"""What a mix is chosen by: milliseconds of a step, bytes of the engine, or the number of sites in high precision."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The configuration of a search.

    Attributes:
        budgets: limits that must all hold.
        objective: one of `OBJECTIVES`.
        jobs: local processes that measure noise.
        dask: address of a Dask scheduler in their place.
        folder: where the journal and the report go; None keeps them in memory.
        samples: windows of text, or images, on which a mix is evaluated; None takes as many as an export of such a
            model is evaluated on.
    """

    budgets: tuple[Budget, ...]
    objective: Objective = "latency"
    jobs: int = 1
    dask: str | None = None
    folder: Path | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        if not self.budgets:
            raise ConfigError("a search without a budget", hint="give one, such as 'psnr>=45'")
        if self.objective not in OBJECTIVES:
            raise UnknownNameError("objective", self.objective, OBJECTIVES)
        if self.samples is not None and self.samples < 2:
            raise ConfigError(f"a search evaluates on {self.samples} samples", hint="at least 2 make a measure")
        check_jobs(self.jobs)

    def samples_for(self, workload: Workload, parameters: int) -> int:
        """Choose the number of samples for a model of a kind with so many parameters."""
        return workload.default_samples(parameters) if self.samples is None else self.samples
