"""`auto` for programs of several parts: what is chosen for each, what is refused, and what decides."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import aigc_export
from aigc_calibration.errors import PlanError
from aigc_calibration.plan import parse_plan
from aigc_export.cli import run
from aigc_export.line.exporter import SEARCH_FILE, ExportResult, export_model
from aigc_export.mixed_precision import part_candidates, part_search
from aigc_export.mixed_precision.outcome import BudgetError
from aigc_export.mixed_precision.part_candidates import Evaluated, PartCandidates
from aigc_export.mixed_precision.plain import plain_build
from aigc_export.mixed_precision.report import PartReport
from aigc_export.recipes.budget import parse_budget
from aigc_export.recipes.recipe import ExportRecipe, export_recipe
from aigc_export.recipes.search import SearchConfig
from aigc_export.workloads import get_workload
from aigc_export.workloads.evaluators.tensors import OUTPUT_SQNR
from aigc_models.evaluation.paired import Scores
from aigc_models.program import Program
from aigc_models.sources.module import make_part, make_program
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.core.tensors import StateSpec
from aigc_runtime.errors import AigcError, ConfigError
from aigc_runtime.opening import open_program
from aigc_runtime.proof.verify import verify_bundle

from .part_programs import three_parts

pytestmark = pytest.mark.usefixtures("capture_once")
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def program() -> Program:
    return three_parts()


def auto(
    program: Program, budget: str, folder: Path | None = None, precision: str = "auto", **changes: Any
) -> ExportRecipe:
    given = {"objective": "ops", "samples": 8, **changes}
    search = SearchConfig(budgets=(parse_budget(budget),), folder=folder, **given)
    return export_recipe(
        program, precision=precision, calibration_samples=32, quality_samples=8, threads=1, search=search
    )


def chosen_of(result: ExportResult) -> dict[str, str]:
    assert result.search is not None
    return {one.part: one.precision for one in result.search.parts if one.chosen}


def alone(result: ExportResult, part: str, precision: str) -> PartReport:
    assert result.search is not None
    (found,) = [one for one in result.search.parts if (one.part, one.precision) == (part, precision)]
    return found


def test_the_part_that_spoils_the_result_stays_higher(program: Program, tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    recipe = auto(program, "output_sqnr>=30", tmp_path / "s")
    result = export_model(recipe, tmp_path / "out", stage=lambda *line: told.append(line))
    found = result.search
    assert found is not None
    assert chosen_of(result) == {"first": "int8", "middle": "fp32", "last": "int8"}
    assert not alone(result, "middle", "int8").holds
    assert found.kept.keys() == {"middle"}
    assert "fp32: int8 alone gives output_sqnr_db 2" in found.kept["middle"]
    assert "which misses the budget" in found.kept["middle"]
    assert {one.name: one.holds for one in found.candidates} == {
        "fp32": True,
        "first=int8": True,
        "middle=int8": False,
        "last=int8": True,
        "int8": False,
        "first=int8,last=int8": True,
    }
    (chosen,) = [one for one in found.candidates if one.chosen]
    assert (chosen.name, chosen.precision, dict(chosen.counts)) == (
        "first=int8,last=int8",
        "mixed",
        {"int8": 2, "fp32": 1},
    )
    # The noise of parts adds up, in this program within half a decibel.
    summed = sum(10 ** (-alone(result, part, "int8").value / 10) for part in ("first", "last"))
    assert chosen.value == pytest.approx(-10 * math.log10(summed), abs=1)
    assert chosen.size_bytes == sum(one.size_bytes for one in found.parts if one.chosen)
    assert all(one.runs == 1 and one.latency_ms > 0 for one in found.parts)
    assert "1 of 4 sites in float" in found.verdict
    assert found.evaluated == 6
    assert any(name == "part" and line.startswith("middle in int8: output_sqnr_db 2") for name, line in told)
    assert any(name == "try" and "model 25." in line and "missed" in line for name, line in told)

    bundle = result.bundle
    manifest = bundle.manifest
    assert manifest.precision == "mixed"
    assert manifest.origin is not None
    assert manifest.origin.given("--precision") == ("fp32,first=int8,last=int8",)
    assert {parse_plan(bundle.read(f"plan.{part}.json")).precision for part in ("first", "last")} == {"int8"}
    assert "plan.middle.json" not in {info.path for info in manifest.files}
    assert json.loads(bundle.read(SEARCH_FILE)) == json.loads((tmp_path / "s" / "search.json").read_text())
    assert (tmp_path / "s" / "pareto.svg").stat().st_size > 1000
    with open_program(bundle) as opened:
        assert verify_bundle(bundle, opened).passed
    assert aigc_export.verify(bundle, model=program, quality_samples=2).report.passed


@pytest.mark.slow
def test_a_search_by_size_weighs_every_small_precision(program: Program, tmp_path: Path) -> None:
    result = export_model(auto(program, "output_sqnr>=37", objective="size"), tmp_path / "out")
    found = result.search
    assert found is not None
    assert {one.precision for one in found.parts if one.part == "last"} == {
        "fp32",
        "int8",
        "fp16",
        "int8-weight",
        "int4",
    }
    (chosen,) = [one for one in found.candidates if one.chosen]
    assert chosen.holds
    able = [one for one in found.candidates if one.holds]
    assert chosen.size_bytes == min(one.size_bytes for one in able)
    assert chosen.size_bytes < 0.5 * max(one.size_bytes for one in able)
    assert "% of the bytes of fp32" in found.verdict


@pytest.mark.slow
def test_a_search_goes_on_where_it_was(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = export_model(auto(program, "output_sqnr>=30", tmp_path / "s"), tmp_path / "a")

    def again(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(part_candidates, "build_engine", again)
    monkeypatch.setattr(part_candidates, "time_generations", again)
    monkeypatch.setattr(part_search, "make_evaluator", again)
    second = export_model(auto(program, "output_sqnr>=30", tmp_path / "s"), tmp_path / "b")
    assert first.search is not None
    assert second.search is not None
    assert second.search.dump() == first.search.dump()
    assert second.search.reused > 15
    assert first.search.reused == 0
    for file in ("first.onnx", "middle.onnx", "last.onnx"):
        assert Bundle.open(tmp_path / "a").read(file) == Bundle.open(tmp_path / "b").read(file)


def test_a_budget_that_nothing_keeps(program: Program, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"not even fp32 keeps the budget: output_sqnr_db 1\d\d") as caught:
        export_model(auto(program, "output_sqnr>=200"), tmp_path / "out")
    assert caught.value.exit_code == 3
    assert caught.value.hint is not None
    option = caught.value.hint.split('--budget "')[1].split('"')[0]
    assert '" accepts it' in caught.value.hint
    assert list(tmp_path.iterdir()) == []
    assert export_model(auto(program, option), tmp_path / "out").report.passed


@pytest.mark.slow
def test_a_budget_that_only_fp32_keeps(program: Program, tmp_path: Path) -> None:
    result = export_model(auto(program, "output_sqnr>=100"), tmp_path / "out")
    assert result.search is not None
    assert result.search.verdict.startswith("fp32: nothing lower keeps the budget")
    assert result.search.kept.keys() == {"first", "middle", "last"}
    assert result.bundle.manifest.precision == "fp32"
    assert result.coverages == {}


Evaluate = Callable[[PartCandidates, Mapping[str, str]], Evaluated]


def changed_scores(monkeypatch: pytest.MonkeyPatch, change: Callable[[int, Evaluated], Evaluated]) -> None:
    """Let evaluations say something else, by how many parts are in low precision."""
    honest: Evaluate = PartCandidates.evaluate

    def evaluate(self: PartCandidates, precisions: Mapping[str, str]) -> Evaluated:
        lowered = sum(precisions.get(part, base) != base for part, base in self.base.items())
        return change(lowered, honest(self, precisions))

    monkeypatch.setattr(PartCandidates, "evaluate", evaluate)


def valued(found: Evaluated, value: float) -> Evaluated:
    return replace(found, scores=Scores(paired=(OUTPUT_SQNR.paired(value, standard_error=0.0, samples=8),)))


def test_what_the_sum_promises_and_a_run_does_not_give_is_not_shipped(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_scores(monkeypatch, lambda lowered, found: valued(found, 10.0) if lowered > 1 else found)
    result = export_model(auto(program, "output_sqnr>=30"), tmp_path / "out")
    assert result.search is not None
    assert chosen_of(result) == {"first": "fp32", "middle": "fp32", "last": "int8"}
    missed = {one.name for one in result.search.candidates if not one.holds}
    assert {"int8", "first=int8,last=int8"} <= missed
    assert "nothing with it that was run costs less and keeps the budget" in result.search.kept["first"]


@pytest.mark.slow
def test_what_a_run_gives_is_shipped_whatever_the_sum_says(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_scores(monkeypatch, lambda lowered, found: valued(found, 5.0) if lowered == 1 else found)
    result = export_model(auto(program, "output_sqnr>=20"), tmp_path / "out")
    assert chosen_of(result) == dict.fromkeys(("first", "middle", "last"), "int8")
    assert result.bundle.manifest.precision == "int8"


def test_a_part_that_is_not_judged_stays_as_it_is(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_scores(monkeypatch, lambda _, found: replace(found, ran=("first", "middle")))
    result = export_model(auto(program, "output_sqnr>=30"), tmp_path / "out")
    assert chosen_of(result) == {"first": "int8", "middle": "fp32", "last": "fp32"}
    assert result.search is not None
    assert "what is compared does not run it" in result.search.kept["last"]
    assert "auto,last=fp16" in result.search.kept["last"]


@pytest.mark.slow
def test_parts_that_are_named_keep_their_precision(program: Program, tmp_path: Path) -> None:
    result = export_model(auto(program, "output_sqnr>=20", precision="auto,last=fp16"), tmp_path / "out")
    assert chosen_of(result) == {"first": "int8", "middle": "int8", "last": "fp16"}
    assert result.search is not None
    assert result.search.kept == {"last": "fp16: as you chose"}
    assert "sites in float" in result.search.verdict
    with pytest.raises(BudgetError, match="not even last=fp16 keeps the budget"):
        export_model(auto(program, "output_sqnr>=100", precision="auto,last=fp16"), tmp_path / "no")


def test_what_could_not_be_proven_is_no_candidate(program: Program, tmp_path: Path) -> None:
    recipe = export_recipe(
        program,
        precision="auto",
        calibration_samples=32,
        quality_samples=8,
        search=auto(program, "output_sqnr>=30").search,
        tolerance={"min_sqnr_db": 60},
    )
    result = export_model(recipe, tmp_path / "out")
    assert result.search is not None
    assert result.search.verdict.startswith("fp32: no part can be in a lower precision")
    for why in result.search.kept.values():
        assert "int8 misses the limits of its proof (--tolerance sets others): " in why
        assert "at least 60 is needed" in why


@pytest.mark.slow
def test_a_precision_without_limits_is_no_candidate(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = get_workload("tensors")
    tolerances = {name: limits for name, limits in own.tolerances.items() if name != "int4"}
    monkeypatch.setattr(part_search, "get_workload", lambda _: replace(own, tolerances=tolerances))
    result = export_model(auto(program, "output_sqnr>=30", objective="size"), tmp_path / "out")
    assert result.search is not None
    assert "int4" not in {one.precision for one in result.search.parts}
    assert "int4 could not be proven: the kind 'tensors' states no limits for it" in result.search.kept["last"]


@pytest.mark.slow
def test_a_part_of_which_nothing_runs_in_few_bits(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = plain_build

    def build(prepared: Any, recipe: Any, precision: str, **given: Any) -> Any:
        if precision == "int8" and prepared.part.name == "last":
            raise PlanError("nothing here is a product")
        return honest(prepared, recipe, precision, **given)

    monkeypatch.setattr(part_search, "plain_build", build)
    result = export_model(auto(program, "output_sqnr>=30"), tmp_path / "out")
    assert chosen_of(result) == {"first": "int8", "middle": "fp32", "last": "fp32"}
    assert result.search is not None
    assert result.search.kept["last"] == "fp32: int8 is not possible: nothing here is a product"


@pytest.mark.parametrize(
    ("factors", "expected", "verdict"),
    [
        ({"last": 0.25}, {"last"}, "1.33x as fast as fp32 in the engines"),
        pytest.param({"first": 0.25, "last": 0.25}, {"first", "last"}, "2.00x as fast as fp32", marks=pytest.mark.slow),
        pytest.param({"last": 0.95}, set(), "nothing lower keeps the budget and is better", marks=pytest.mark.slow),
        pytest.param({"last": 1.5, "first": 1.5}, set(), "nothing lower keeps the budget", marks=pytest.mark.slow),
    ],
)
def test_by_time_only_what_gains_is_lowered(
    factors: dict[str, float],
    expected: set[str],
    verdict: str,
    program: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every part takes 1 ms in fp32."""

    def rounds(sessions: Any, _runs: Any, count: int) -> list[list[float]]:
        (given,) = {spec.name for spec in sessions[0].interface.inputs}
        factor = factors.get({"x": "first", "y": "middle", "z": "last"}[given], 1.0)
        return [[1.0, factor][: len(sessions)]] * count

    monkeypatch.setattr(part_candidates, "time_generations", rounds)
    result = export_model(auto(program, "output_sqnr>=30", objective="latency"), tmp_path / "out")
    assert result.search is not None
    assert {part for part, precision in chosen_of(result).items() if precision == "int8"} == expected
    assert verdict in result.search.verdict


class Counter(nn.Module):
    def forward(self, x: torch.Tensor, held: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x + held, "kept": held + 1}


def stateful() -> Program:
    x = torch.ones(2, 3)
    state = (StateSpec(input="held", output="kept", dtype="float32", shape=("batch", 3), kind="recurrent"),)
    counter = make_part(Counter().eval(), {"x": x, "held": x}, dims={"x": {0: "batch"}}, state=state, name="counter")
    layer = make_part(_Last().eval(), {"y": x}, dims={"y": {0: "batch"}}, name="last")
    return make_program([counter, layer], name="stateful")


class _Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"z": self.layer(y)}


def test_what_cannot_be_searched_is_refused_before_the_work(program: Program, tmp_path: Path) -> None:
    def refused(recipe: ExportRecipe, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            export_model(recipe, tmp_path / "out")

    every = "auto,first=int8,middle=fp32,last=int8"
    refused(auto(program, "output_sqnr>=30", precision=every), "nothing is left to search")
    refused(auto(program, "output_sqnr>=30", jobs=2), "which runs one pipeline after the other")
    refused(auto(program, "output_sqnr>=30", dask="tcp://127.0.0.1:9"), "which runs one pipeline after the other")
    with pytest.raises(AigcError, match="unknown part 'lst'"):
        auto(program, "output_sqnr>=30", precision="auto,lst=int8")


def test_parts_that_carry_state_are_not_measured_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="counter of 'stateful' carry state"):
        export_model(auto(stateful(), "output_sqnr>=30"), tmp_path / "out")


def test_a_calibration_file_is_of_one_graph(program: Program, tmp_path: Path) -> None:
    one = make_program(_Last().eval(), {"y": torch.ones(2, 3)}, dims={"y": {0: "batch"}})
    aigc_export.calibrate(one, tmp_path / "c.npz", calibration_samples=8)
    recipe = export_recipe(program, precision="auto", calibration=str(tmp_path / "c.npz"))
    with pytest.raises(ConfigError, match="a calibration file is of one graph"):
        export_model(recipe, tmp_path / "out")


@pytest.mark.slow
def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["export", f"{HERE / 'part_programs.py'}:three_parts", "--calibration-samples", "32"]
    common += ["--quality-samples", "8", "--objective", "ops", "--budget", "output_sqnr>=30"]
    assert run([*common, "--precision", "auto", "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    for expected in ("each part alone", "auto · output_sqnr>=30", "ms a generation", "first=int8,last=int8: 1 of 4"):
        assert expected in printed
    assert {p.name for p in (tmp_path / "out.search").iterdir()} == {"journal.jsonl", "search.json", "pareto.svg"}
    assert run([*common, "--precision", "auto,middle=fp16", "-o", str(tmp_path / "named"), "--json"]) == 0
    search = json.loads(capsys.readouterr().out)["search"]
    assert {one["part"]: one["precision"] for one in search["parts"] if one["chosen"]} == {
        "first": "int8",
        "middle": "fp16",
        "last": "int8",
    }
    assert run([*common, "--precision", "middle=auto", "-o", str(tmp_path / "no")]) == 2
    assert "write auto,PART=PRECISION" in capsys.readouterr().err


@pytest.mark.slow
def test_in_python(program: Program, tmp_path: Path) -> None:
    found = aigc_export.search(
        program,
        output=tmp_path / "out",
        budget="output_sqnr>=20",
        objective="ops",
        samples=8,
        calibration_samples=32,
        quality_samples=8,
    )
    assert chosen_of(found) == dict.fromkeys(("first", "middle", "last"), "int8")
