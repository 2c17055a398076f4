"""Choose the calibration data of a model: its own by default, or the user's files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aigc_calibration.data import ArrayData, CalibrationData
from aigc_calibration.onnx_function import OnnxFunction
from aigc_export.workloads import get_workload
from aigc_export.workloads.base import SampleRequest
from aigc_export.workloads.samples.images import ImageData
from aigc_models.evaluation.evaluation import Evaluation
from aigc_models.example_sizes import run_sizes
from aigc_models.program import Part, Program, example_feeds
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    pass

__all__ = ["ExampleData", "calibration_data", "described"]


@dataclass(frozen=True, kw_only=True)
class ExampleData:
    """One batch of the model's example inputs: enough to count a graph's work on, not to calibrate it.

    Attributes:
        part: of a program.
        seed: of the numbers.
    """

    part: Part
    seed: int = 0

    @property
    def samples(self) -> int:
        """Number of samples in the one batch."""
        return len(next(iter(self._feeds().values())))

    @property
    def rows(self) -> int:
        """Number of rows: one for every sample."""
        return self.samples

    def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        """Yield the one batch."""
        yield self._feeds()

    def _feeds(self) -> dict[str, Array]:
        return example_feeds(self.part, run_sizes(self.part)[0], seed=self.seed)


def calibration_data(
    program: Program,
    *,
    part: Part | None = None,
    path: Path | str | None,
    samples: int,
    seed: int,
    evaluation: Evaluation | None = None,
) -> CalibrationData:
    """Make the calibration samples of a part of a program.

    Args:
        program: the model.
        part: that is calibrated; None for the only one.
        path: the user's text, images or `.npz`, whatever its kind takes; None takes what the checkpoint keeps, the
            built-in data, or what the pipeline itself draws.
        samples: how many, at most.
        seed: of the choice.
        evaluation: what quality is measured on: where its text stands in the user's text, it is left out.

    Raises:
        CalibrationError: data that cannot calibrate this model; says what is expected.
        InputError: files that cannot be read.
    """
    request = SampleRequest(
        path=path,
        samples=samples,
        seed=seed,
        own_text=() if program.checkpoint is None else program.checkpoint.calibration,
        held_out=() if evaluation is None else evaluation.pieces,
    )
    return get_workload(program.kind).calibration(program, part or program.part, request)


def described(data: CalibrationData) -> str:
    """Describe the samples for a stage's line."""
    if isinstance(data, ArrayData) and data.samples < data.total:
        return f"{data.samples} of {data.total} rows"
    notes = f" of {'; '.join(data.notes)}" if isinstance(data, ImageData) and data.notes else ""
    return f"{data.samples} samples{notes}"
