"""The first samples of many, for what little depends on: the magnitudes of channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aigc_calibration.data import CalibrationData
from aigc_calibration.onnx_function import OnnxFunction
from aigc_runtime.core.tensors import Array

__all__ = ["FewSamples"]

SHARE, FEWEST = 4, 32
"""A quarter of the samples, and so many at least."""
ENOUGH_NUMBERS = 2**17
"""Of the first input, in all rows together: those of 8 rows of 4 x 64 x 64."""


@dataclass(frozen=True)
class FewSamples:
    """The first samples; all of them where they come in an order of the user's.

    Attributes:
        data: all samples.
    """

    data: CalibrationData

    @property
    def samples(self) -> int:
        """Number of samples at most: a part of all, but not too few, and no part of rows in a file's order."""
        if getattr(self.data, "in_order", False):
            return self.data.samples
        return min(self.data.samples, max(FEWEST, self.data.samples // SHARE))

    @property
    def rows(self) -> int:
        """Number of rows of these samples, at most."""
        return self.data.rows * self.samples // max(self.data.samples, 1)

    def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        """Yield whole batches until there are so many rows, or a quarter of all that has numbers enough."""
        rows = 0
        for feeds in self.data.batches(run):
            yield feeds
            first = next(iter(feeds.values()))
            rows += len(first)
            if rows >= self._enough(first.size // max(len(first), 1)):
                return

    def _enough(self, numbers: int) -> int:
        """How many rows are, where each has so many numbers."""
        if getattr(self.data, "in_order", False):
            return self.rows
        return min(self.rows, max(self.data.rows // SHARE, -(-ENOUGH_NUMBERS // max(numbers, 1))))
