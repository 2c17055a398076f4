"""The user's own arrays, one for every input of a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aigc_calibration.data.draws import stratified, stream
from aigc_calibration.data.expected import ArrayCheck
from aigc_calibration.data.npz import NpzRows
from aigc_calibration.data.protocol import check_samples
from aigc_calibration.data.recorder import Recorder
from aigc_calibration.onnx_function import OnnxFunction
from aigc_calibration.subject import Subject
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.program import batch_rows
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    pass

__all__ = ["ArrayData", "choose_rows"]

STREAM = 5
"""Of random numbers; see `draws.stream`."""


def choose_rows(total: int, samples: int, seed: int) -> Array:
    """Choose `samples` of `total` rows, ascending, one from each of equal stretches; all rows if there are no more."""
    return stratified(min(samples, total), total, stream(seed, STREAM))


@dataclass(frozen=True, kw_only=True)
class ArrayData:
    """Rows of an `.npz` with one array for every input, drawn without replacement and read in the file's order.

    Attributes:
        subject: what the arrays are for.
        source: the file; all rows that are drawn are checked once, before any work starts.
        most: rows to draw; all where the file has no more.
        batch: rows at a time.
        seed: of the draw.
    """

    subject: Subject
    source: NpzRows
    most: int = 256
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        check_samples(self.most, self.batch)
        check = ArrayCheck(self.subject)
        check.shapes({name: column.stand_in() for name, column in self.source.columns.items()})
        for arrays in self.source.batches(self._chosen(), self.batch, whole=True):
            check.add(arrays)
        check.finish()

    def _chosen(self) -> Array:
        return choose_rows(self.total, self.most, self.seed)

    @property
    def total(self) -> int:
        """Number of rows in the file."""
        return next(iter(self.source.columns.values())).shape[0]

    @property
    def samples(self) -> int:
        """Number of rows that are drawn."""
        return min(self.most, self.total)

    @property
    def in_order(self) -> bool:
        """Whether the first samples need not be like the others: a file's rows may be sorted."""
        return True

    @property
    def rows(self) -> int:
        """Number of rows: one for every sample."""
        return self.samples

    def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        """Yield the feeds of the graph; carried state is empty."""
        recorder = Recorder(run)
        session = ArraySession(recorder, self.subject.interface)
        for arrays in self.source.batches(self._chosen(), self.batch):
            feeds = self.subject.complete(arrays)
            rows = batch_rows(session.interface, feeds)
            recorder.record_last(session, feeds, session.new_state(rows) if session.interface.state else None)
            yield from recorder.take()
