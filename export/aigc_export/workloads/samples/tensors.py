"""Samples of any program: the user's arrays, or the example and draws that are like it, through all its engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aigc_calibration.data import NpzRows, choose_rows
from aigc_calibration.data.draws import stream
from aigc_calibration.data.expected import ArrayCheck
from aigc_calibration.data.protocol import check_samples
from aigc_calibration.data.recorder import Recorder
from aigc_calibration.onnx_function import OnnxFunction
from aigc_calibration.subject import Subject
from aigc_export.workloads.sizes import BATCH
from aigc_export.workloads.tensor_inputs import draw_like, example_inputs, input_interface, torch_program
from aigc_export.workloads.turns import MAX_TURNS, run_turns
from aigc_models.program import Part, Program
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.tensors import TensorsPipeline

if TYPE_CHECKING:
    pass

__all__ = ["TensorsData"]

STREAM = 6
"""Of random numbers; see `draws.stream`."""
MAX_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class TensorsData:
    """What one engine is fed while the whole program runs: in PyTorch the other engines, the graph itself this one.

    Attributes:
        program: of any number of parts.
        part: whose graph is calibrated.
        source: the user's arrays, with a row for every sample; None takes the example, and draws that are like it.
        most: samples, at most.
        seed: of the draws, or of the choice of rows.
    """

    program: Program
    part: Part
    source: NpzRows | None = None
    most: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        check_samples(self.most, 1)
        if self.source is None:
            return
        check = ArrayCheck(Subject(interface=input_interface(self.program)))
        check.shapes({name: column.stand_in() for name, column in self.source.columns.items()})
        for arrays in self.source.batches(self._chosen(self.source), self._batch, whole=True):
            check.add(arrays)
        check.finish()

    def _chosen(self, source: NpzRows) -> Array:
        return choose_rows(_rows(source), self.most, self.seed)

    @property
    def _batch(self) -> int:
        """Rows of the user's arrays that run together: one, where an input has a fixed first size."""
        together = all(tensor.shape[0] == BATCH for tensor in input_interface(self.program).inputs)
        dim = input_interface(self.program).dim(BATCH)
        return MAX_BATCH if together and dim is not None and (dim.max is None or dim.max >= MAX_BATCH) else 1

    @property
    def samples(self) -> int:
        """Number of rows of the user's arrays, or of examples."""
        return self.most if self.source is None else min(self.most, _rows(self.source))

    @property
    def in_order(self) -> bool:
        """Whether the first samples need not be like the others: a file's rows may be sorted."""
        return self.source is not None

    @property
    def rows(self) -> int:
        """Number of rows that the part is fed: in a loop, a sample is fed once for every turn."""
        role = next((role for role, name in self.program.engines.items() if name == self.part.name), None)
        turns: int = sum(stage.repeat for stage in self.program.settings.stages if stage.role == role)
        first = 1 if self.source is not None else len(next(iter(example_inputs(self.program).values())))
        return self.samples * turns * first

    def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        """Yield the feeds of the graph, carried state among them.

        Draws are calls one after the other on one state; the user's arrays begin anew with every row.
        """
        recorder = Recorder(run)
        sessions = {**torch_program(self.program).sessions}
        sessions[self.part.name] = ArraySession(recorder, self.part.interface)
        pipeline = TensorsPipeline(OpenProgram(sessions), self.program.settings, self.program.engines)
        for _ in self._calls(pipeline):
            yield from recorder.take()

    def _calls(self, pipeline: TensorsPipeline) -> Iterator[Mapping[str, Array]]:
        """Call the pipeline once for every sample."""
        if self.source is not None:
            for inputs in self.source.batches(self._chosen(self.source), self._batch):
                yield pipeline.generate(inputs)
            return
        examples, rng = example_inputs(self.program), stream(self.seed, STREAM)
        first, left = examples, self.most
        while left > 0:
            for _, outputs in run_turns(pipeline, first, rng, most=min(left, MAX_TURNS)):
                left -= 1
                yield outputs
            first = draw_like(examples, rng)


def _rows(source: NpzRows) -> int:
    return next(iter(source.columns.values())).shape[0]
