"""The rows of calibration data in which some value is far larger than usual.

A range that cuts large numbers off harms the rows that hold them, and no others. They are few: among the rows that a
choice is judged on there may be none. So they are kept while ranges are found, and judged beside the others, where each
stands for itself alone, and each of the others for many.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.data import CalibrationData, short_rows
from aigc_calibration.histogram import HUGE
from aigc_calibration.onnx_function import Feeds
from aigc_calibration.output_noise import Judged, few_rows, rows_of
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LoudRows", "judged_beside", "loud_rows"]


@dataclass(frozen=True, kw_only=True)
class _Row:
    place: int
    feeds: dict[str, Array]


class LoudRows:
    """Keeps the rows whose values are largest beside those of the rows before.

    Of a value the magnitude that counts is the largest of a row; how loud a row is, the largest of all values' ratios
    of it to its mean over the rows so far.

    Args:
        count: of rows that are kept.
    """

    def __init__(self, count: int) -> None:
        self.seen = 0
        self._count = count
        self._sums: dict[str, float] = {}
        self._kept: list[tuple[float, int, _Row]] = []

    def add(self, feeds: Feeds, values: Mapping[str, Array]) -> None:
        """Read a batch; of one whose arrays do not all have its rows along the first axis no row is kept.

        Args:
            feeds: of the graph.
            values: of the graph, by name; one without the batch's rows along its first axis tells nothing of them, nor
                does one that holds constants of a mask.
        """
        rows = len(next(iter(feeds.values())))
        first, self.seen = self.seen, self.seen + rows
        by_row = {name: value for name, value in values.items() if value.size and value.ndim and len(value) % rows == 0}
        peaks = {name: _peaks(value, rows) for name, value in by_row.items()}
        peaks = {name: found for name, found in peaks.items() if found.max() < HUGE}
        for name, found in peaks.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(found.sum())
        ratios = [found * self.seen / self._sums[name] for name, found in peaks.items() if self._sums[name] > 0]
        if not ratios or not all(array.ndim and len(array) == rows for array in feeds.values()):
            return
        for row, ratio in enumerate(np.max(ratios, axis=0).tolist()):
            if len(self._kept) < self._count or ratio > self._kept[0][0]:
                kept = _Row(place=first + row, feeds={k: array[row : row + 1].copy() for k, array in feeds.items()})
                heapq.heappush(self._kept, (ratio, -kept.place, kept))
                if len(self._kept) > self._count:
                    heapq.heappop(self._kept)

    def behind(self, rows: int) -> list[dict[str, Array]]:
        """Feeds of each that is kept, in the order of the data, but for those among so many rows at its front."""
        kept = sorted((row for _, _, row in self._kept), key=lambda row: row.place)
        return [row.feeds for row in kept if row.place >= rows]


def loud_rows(model: ir.Model, data: CalibrationData) -> LoudRows | None:
    """What keeps as many as a choice is judged on; None where rows cannot be run by themselves, or are cut.

    Args:
        model: the float graph.
        data: of which they will be.
    """
    shapes = [value.shape for value in model.graph.inputs]
    takes_any = all(shape is not None and len(shape) > 0 and not isinstance(shape[0], int) for shape in shapes)
    return LoudRows(few_rows(data)) if takes_any and short_rows(data) is data else None


def judged_beside(batches: Sequence[Feeds], loud: LoudRows | None) -> Judged:
    """Put loud rows behind batches from the front of the data.

    Args:
        batches: each row of which stands for as many as there are that are not loud.
        loud: of the data; None: there are none.
    """
    ordinary = [1.0] * len(batches)
    if loud is None:
        return Judged(batches=batches, weights=ordinary)
    front = rows_of(batches)
    beside = loud.behind(front)
    weight = front / (loud.seen - len(beside))
    return Judged(batches=[*batches, *beside], weights=[*ordinary, *[weight] * len(beside)])


def _peaks(value: Array, rows: int) -> Array:
    """The largest magnitude of each row."""
    by_row = value.reshape(rows, -1)
    found: Array = np.maximum(by_row.max(axis=1), -by_row.min(axis=1)).astype(np.float64)
    return found
