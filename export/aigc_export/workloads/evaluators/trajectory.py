"""Compare a diffusion model step by step on PyTorch's own trajectory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aigc_export.workloads.measures import Measure
from aigc_runtime.core.compare import compare_arrays
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.denoiser import MODEL_OUTPUT
from aigc_runtime.proof.paired import PairedMetric

__all__ = ["STEP_SQNR", "Trajectory"]

TRAJECTORY_ROWS = 8
"""Images whose trajectory is compared step by step."""
STEP_SQNR = Measure(name="step_sqnr_db", written="step_sqnr", unit="decibels", higher_is_better=True)
"""Of the model's output on PyTorch's own trajectory, at the worst step."""


@dataclass
class Trajectory:
    """Steps of a sampling loop: the first rows of what went through the model."""

    steps: list[tuple[dict[str, Array], Array]] = field(default_factory=list)

    def record(self, _engine: str, feeds: Mapping[str, Array], results: Mapping[str, Array]) -> None:
        """Keep a step; a `recording.Record`."""
        kept = {name: array[:TRAJECTORY_ROWS].copy() for name, array in feeds.items()}
        self.steps.append((kept, results[MODEL_OUTPUT][:TRAJECTORY_ROWS].copy()))

    def compare(self, candidate: Session) -> PairedMetric:
        """Run a candidate on the steps."""
        worst = min(compare_arrays(out, candidate.run(feeds)[MODEL_OUTPUT]).sqnr_db for feeds, out in self.steps)
        return STEP_SQNR.paired(worst, standard_error=0.0, samples=len(self.steps))
