"""Samples of any program: the example, draws that are like it, or the user's rows; through every engine before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_function import opened_when_called
from aigc_export.graphs.capture import capture
from aigc_export.workloads import get_workload
from aigc_export.workloads.base import SampleRequest
from aigc_export.workloads.samples.tensors import TensorsData
from aigc_models.program import Part, Program
from aigc_models.sources.module import make_part, make_program
from aigc_runtime.core.tensors import Array, StateSpec
from aigc_runtime.pipelines.tensors import Stage, TensorsSettings

from ..families import all_rows


class Plus(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x + 1}


class Halved(nn.Module):
    def forward(self, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"z": y / 2}


EXAMPLE = torch.arange(8, dtype=torch.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def plus() -> Program:
    return make_program(Plus().eval(), example_inputs={"x": EXAMPLE}, dims={"x": {0: "batch"}})


@pytest.fixture(scope="module")
def graph(plus: Program) -> ir.Model:
    return capture(plus.part).model


def in_a_row() -> Program:
    """x + 1, then halved three times over."""
    first = make_part(Plus().eval(), {"x": EXAMPLE}, dims={"x": {0: "batch"}}, name="first")
    second = make_part(Halved().eval(), {"y": EXAMPLE}, dims={"y": {0: "batch"}}, name="second")
    return Program(
        name="row",
        kind="tensors",
        parts={"first": first, "second": second},
        settings=TensorsSettings(stages=(Stage(role="a"), Stage(role="b", repeat=3, feedback={"z": "y"}))),
        engines={"a": "first", "b": "second"},
    )


def request(path: Path | None = None, samples: int = 5, seed: int = 0) -> SampleRequest:
    return SampleRequest(path=path, samples=samples, seed=seed)


def test_the_example_comes_first_and_draws_of_it_follow(plus: Program, graph: ir.Model) -> None:
    data = get_workload("tensors").calibration(plus, plus.part, request())
    batches = list(data.batches(opened_when_called(graph)))
    assert (data.samples, data.rows, len(batches)) == (5, 10, 5)
    np.testing.assert_array_equal(batches[0]["x"], EXAMPLE.numpy())
    values = set(EXAMPLE.numpy().ravel().tolist())
    assert all(set(batch["x"].ravel().tolist()) <= values for batch in batches)
    assert len({batch["x"].tobytes() for batch in batches}) == 5
    again, other = (
        all_rows(TensorsData(program=plus, part=plus.part, most=5, seed=seed), graph)["x"] for seed in (0, 1)
    )
    np.testing.assert_array_equal(again, np.concatenate([b["x"] for b in batches]))
    assert not np.array_equal(again, other)


def test_an_engine_is_fed_what_the_ones_before_it_give(graph: ir.Model) -> None:
    program = in_a_row()
    second = capture(program.parts["second"]).model
    data = TensorsData(program=program, part=program.parts["second"], most=2)
    fed = [batch["y"] for batch in data.batches(opened_when_called(second))]
    assert len(fed) == 6
    assert data.rows == 12
    for turn in range(3):
        np.testing.assert_array_equal(fed[turn], (EXAMPLE.numpy() + 1) / 2**turn)
    first = TensorsData(program=program, part=program.parts["first"], most=2)
    graph = capture(program.parts["first"]).model
    assert first.rows == sum(len(b["x"]) for b in first.batches(opened_when_called(graph))) == 4


def test_rows_of_a_file(plus: Program, graph: ir.Model, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=rows)
    data = get_workload("tensors").calibration(plus, plus.part, request(tmp_path / "x.npz", samples=33))
    found: Array = all_rows(data, graph)["x"]
    assert (data.samples, data.rows, len(found)) == (33, 33, 33)
    assert {row.tobytes() for row in found} < {row.tobytes() for row in rows}
    whole = get_workload("tensors").calibration(plus, plus.part, request(tmp_path / "x.npz", samples=99))
    np.testing.assert_array_equal(all_rows(whole, graph)["x"], rows)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.zeros((3, 4), np.float32)}, "the calibration arrays are y"),
        ({"x": np.zeros((3, 5), np.float32)}, "size 5"),
        ({"x": np.zeros((3, 4), np.float32)}, "one constant, 0"),
        ({"x": np.full((3, 4), np.nan, np.float32)}, "NaN or infinity"),
        ({"x": np.ones((3, 4))}, "float64"),
    ],
)
def test_arrays_that_do_not_fit(plus: Program, tmp_path: Path, arrays: dict[str, Array], message: str) -> None:
    np.savez(tmp_path / "x.npz", allow_pickle=False, **arrays)
    with pytest.raises(CalibrationError, match=message) as caught:
        get_workload("tensors").calibration(plus, plus.part, request(tmp_path / "x.npz"))
    assert "expected exactly: x float32 [batch, 4] any finite numbers" in caught.value.hint


def test_a_module_of_one_size_reads_a_row_at_a_time(tmp_path: Path) -> None:
    program = make_program(Plus().eval(), example_inputs={"x": torch.ones(1, 4)})
    np.savez(tmp_path / "x.npz", x=np.arange(12, dtype=np.float32).reshape(3, 4))
    data = get_workload("tensors").calibration(program, program.part, request(tmp_path / "x.npz"))
    batches = list(data.batches(opened_when_called(capture(program.part).model)))
    assert [batch["x"].shape for batch in batches] == [(1, 4)] * 3


def test_what_is_no_file_of_arrays(plus: Program, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"is no \.npz") as caught:
        get_workload("tensors").calibration(plus, plus.part, request(tmp_path))
    assert "x float32 [batch, 4]" in caught.value.hint
    with pytest.raises(CalibrationError, match="samples is 0"):
        TensorsData(program=plus, part=plus.part, most=0)


def test_a_part_without_an_example_is_drawn(graph: ir.Model, plus: Program) -> None:
    part: Part = plus.part
    bare = Program(
        name="bare",
        kind="tensors",
        parts={part.name: Part(module=part.module, interface=part.interface)},
        settings=TensorsSettings(),
    )
    rows = all_rows(TensorsData(program=bare, part=bare.part, most=4), graph)["x"]
    assert np.isfinite(rows).all()
    assert len(np.unique(rows)) > 4


class Running(nn.Module):
    """A sum over all calls."""

    def forward(self, x: torch.Tensor, total: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": 2 * total, "new_total": total + x}


@pytest.mark.parametrize("samples", [1, 4, 7])
def test_draws_go_on_from_each_other_where_state_is_carried(samples: int) -> None:
    """A carried tensor that is always empty would be calibrated for zeros alone."""
    state = StateSpec(input="total", output="new_total", dtype="float32", shape=("batch", 4), kind="recurrent")
    program = make_program(
        Running().eval(),
        example_inputs={"x": EXAMPLE + 1, "total": EXAMPLE},
        dims={"x": {0: "batch"}},
        state=(state,),
    )
    data = TensorsData(program=program, part=program.part, most=samples)
    feeds = list(data.batches(opened_when_called(capture(program.part).model)))
    assert len(feeds) == samples
    for number, one in enumerate(feeds):
        before = feeds[number - number % 4 : number]
        np.testing.assert_array_equal(one["total"], sum((f["x"] for f in before), np.zeros((2, 4), np.float32)))
