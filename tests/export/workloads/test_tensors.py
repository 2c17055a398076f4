"""Any module goes through the whole line as it is: cases at several sizes, requests, profiles, and every verb."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import aigc_export
from aigc_export.parity.reference import make_cases, make_generation
from aigc_export.recipes.budget import check_measures, parse_budget
from aigc_export.targets.profiles import derive_profiles, narrowed
from aigc_export.workloads import get_workload
from aigc_models.program import Part, Program
from aigc_models.sources.module import make_part, make_program
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import DimSpec
from aigc_runtime.errors import FeedError
from aigc_runtime.pipelines.tensors import Stage, TensorsSettings


class Net(nn.Module):
    """Three convolutions of which the last gives the output, which ONNX Runtime has in float alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.a(image))
        return {"sharp": self.c(x + torch.relu(self.b(x)))}


class Loop(nn.Module):
    def forward(self, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"z": torch.tanh(y)}


class First(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": 2 * x}


@pytest.fixture(scope="module")
def net() -> Program:
    torch.manual_seed(0)
    return make_program(
        Net().eval(), example_inputs={"image": torch.rand(1, 3, 12, 16)}, dims={"image": {2: "height", 3: "width"}}
    )


def row() -> Program:
    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    parts = (
        make_part(First().eval(), {"x": x}, dims={"x": {0: "batch"}}, name="first"),
        make_part(Loop().eval(), {"y": x}, dims={"y": {0: "batch"}}, name="loop"),
    )
    return Program(
        name="row",
        kind="tensors",
        parts={part.name: part for part in parts},
        settings=TensorsSettings(stages=(Stage(role="a"), Stage(role="b", repeat=9, feedback={"z": "y"}))),
        engines={"a": "first", "b": "loop"},
    )


def bounded(part: Part, **dims: tuple[int, int]) -> ArraySession:
    changed = [
        DimSpec(name=d.name, min=dims[d.name][0], max=dims[d.name][1]) if d.name in dims else d
        for d in part.interface.dims
    ]
    return ArraySession(TorchSession(part).call, part.interface.with_dims(changed))


def test_cases_are_the_example_and_two_other_sizes(net: Program) -> None:
    cases = make_cases(TorchSession(net.part), net, seed=0)
    assert [case.name for case in cases] == ["example", "small", "large"]
    assert [case.steps[0].inputs["image"].shape[2:] for case in cases] == [(12, 16), (2, 3), (3, 4)]
    np.testing.assert_array_equal(cases[0].steps[0].inputs["image"], net.part.examples["image"])


def test_cases_of_an_engine_for_few_sizes(net: Program) -> None:
    cases = make_cases(bounded(net.part, height=(2, 4), width=(2, 4)), net, seed=0)
    assert [case.name for case in cases] == ["small", "large"]
    session = bounded(net.part, height=(8, 8), width=(8, 8))
    (case,) = make_cases(session, net, seed=0)
    assert case.steps[0].inputs["image"].shape == (1, 3, 8, 8)
    assert make_generation(session, net, seed=0).request["image"].shape == (1, 3, 8, 8)


def test_an_engine_that_takes_no_example_is_refused(net: Program) -> None:
    def none(_feeds: object) -> dict[str, object]:
        raise FeedError("no profile takes it")

    with pytest.raises(FeedError, match="the engines take no sizes of an example"):
        make_cases(ArraySession(none, net.part.interface), net, seed=0)  # type: ignore[arg-type]


def test_cases_of_engines_in_a_row_keep_the_first_turns() -> None:
    program = row()
    opened = OpenProgram({name: TorchSession(part) for name, part in program.parts.items()})
    case = make_cases(opened, program, seed=0)[0]
    assert [step.engine for step in case.steps] == ["first", "loop", "loop", "loop"]
    np.testing.assert_array_equal(case.steps[1].inputs["y"], case.steps[0].outputs["y"])
    np.testing.assert_array_equal(case.steps[2].inputs["y"], case.steps[1].outputs["z"])
    generation = make_generation(opened, program, seed=0)
    expected = 2 * program.parts["first"].examples["x"]
    for _ in range(9):
        expected = np.tanh(expected)
    np.testing.assert_allclose(generation.outputs["z"], expected, rtol=1e-6)


def test_profiles_are_best_at_the_example(net: Program) -> None:
    (profile,) = derive_profiles(net)
    assert profile.dims == {"height": (1, 12, 24), "width": (1, 16, 32)}
    assert {d.name: (d.min, d.max) for d in narrowed(net.part.interface, [profile]).dims}["height"] == (1, 24)


def test_budgets_of_arrays() -> None:
    workload = get_workload("tensors")
    budget = parse_budget(workload.budget)
    assert (budget.measure, budget.limit, budget.unit) == ("output_sqnr_db", 30.0, "decibels")
    check_measures([budget], workload)


@pytest.mark.slow
def test_a_module_that_nobody_adapted_goes_through_every_verb(net: Program, tmp_path: Path) -> None:
    plain = aigc_export.export(net, output=tmp_path / "fp32", quality_samples=4, threads=1)
    assert plain.report.passed
    assert plain.report.generation.metric == "output_sqnr_db"
    calibration = tmp_path / "c.npz"
    aigc_export.calibrate(net, calibration, calibration_samples=64, threads=1)
    low = aigc_export.export(
        net, output=tmp_path / "int8", precision="int8", calibration=str(calibration), quality_samples=4, threads=1
    )
    assert low.report.passed
    assert low.coverage is not None
    assert low.coverage.reasons() == {"the engine runs it in float": ("c",)}
    assert low.coverage.executed == low.coverage.planned > 0.7
    assert aigc_export.verify(low.bundle, model=net, quality_samples=2).report.passed
    found = aigc_export.compare(plain.bundle, low.bundle, quality_samples=4, rounds=1, runs=2)
    assert found.picture.metric == "output_sqnr_db"
    assert 20 < found.picture.value < 60
    (paired,) = found.scores.paired
    assert 20 < paired.value < 60


@pytest.mark.slow
def test_a_mix_is_searched_for_a_module_that_nobody_adapted(net: Program, tmp_path: Path) -> None:
    found = aigc_export.export(
        net, output=tmp_path / "auto", precision="auto", calibration_samples=64, quality_samples=8, threads=1
    )
    assert found.report.passed
    assert found.search is not None
    chosen = next(c for c in found.search.candidates if c.chosen)
    assert chosen.holds
    assert chosen.value >= 30
