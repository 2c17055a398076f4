"""The interface of calibration data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_function import OnnxFunction
from aigc_runtime.core.tensors import Array

__all__ = ["CalibrationData", "check_samples", "row_weights", "short_rows"]


class CalibrationData(Protocol):
    """Batches of arrays for every input of a graph. Asking again gives the same batches again.

    The first samples stand for all of them, unless an attribute `in_order` is true. A method `row_weights(feeds)`
    may say that some rows of a batch count more than others; see `row_weights`. A method `short_rows()` may give more
    and shorter rows; see `short_rows`.
    """

    @property
    def samples(self) -> int:
        """Number of samples, over all batches."""
        ...

    @property
    def rows(self) -> int:
        """Number of rows in all batches: a multiple of `samples` where each is fed in several steps, a batch a step."""
        ...

    def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        """Yield arrays for every input of a graph.

        Args:
            run: the graph, called where the next feeds follow from its results.
        """
        ...


def row_weights(data: CalibrationData, feeds: Mapping[str, Array]) -> Array | None:
    """Say how often each row of a batch counts where the error of a weight is made small.

    Args:
        data: that gave the batch.
        feeds: the batch.

    Returns:
        Positive numbers of the shape that the model's values have before their last axis, such as [batch, tokens];
        None where all rows count alike.
    """
    found: Array | None = data.row_weights(feeds) if hasattr(data, "row_weights") else None
    return found


def short_rows(data: CalibrationData) -> CalibrationData:
    """Cut long rows into more and shorter ones of as much work.

    Args:
        data: whose rows may be cut.

    Returns:
        The same data where it has no shorter rows.
    """
    found: CalibrationData = data.short_rows() if hasattr(data, "short_rows") else data
    return found


def check_samples(samples: int, batch: int) -> None:
    """Raise CalibrationError for no samples, or batches of none."""
    if samples < 1 or batch < 1:
        raise CalibrationError(f"samples is {samples}, batch is {batch}", hint="both must be at least 1")
