"""Bundles whose engines carry state of every kind: opened, shown, proven and timed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.bundle.bundle import Bundle, write_bundle
from aigc_runtime.bundle.manifest_file import dump_manifest, parse_manifest
from aigc_runtime.cli.main import run
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.compare import Tolerance
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array, DimSpec, StateSpec, TensorSpec
from aigc_runtime.errors import BundleError
from aigc_runtime.opening import open_program
from aigc_runtime.proof.bench import bench_reference
from aigc_runtime.proof.verify import check_tensors, verify_bundle

from .. import mixed

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixed") / "toy_mixed"
    manifest, files = mixed.manifest()
    write_bundle(path, manifest, files)
    return path


def test_engines_that_share_all_kinds_of_state_are_proven(folder: Path) -> None:
    bundle = Bundle.open(folder)
    with open_program(bundle, threads=1) as program:
        report = verify_bundle(bundle, program)
    assert report.passed, report.failures
    assert {check.output for check in report.tensors} == {"y", "seen", "last"}
    assert {check.engine for check in report.tensors} == {"model", "decode"}
    assert len(report.tensors) == 2 * 4 * 3


@pytest.mark.parametrize("forgotten", ["growing", "buffer", "window", "recurrent"])
def test_an_engine_that_forgets_one_kind_of_state_is_found(folder: Path, forgotten: str) -> None:
    spec = next(spec for spec in mixed.STATE if spec.kind == forgotten)

    def forgets(values: Mapping[str, Array]) -> dict[str, Array]:
        results = mixed.function(values)
        return {**results, spec.output: np.zeros_like(results[spec.output])}

    bundle = Bundle.open(folder)
    with open_program(bundle, threads=1) as program:
        states = program.states
    sessions = {name: ArraySession(forgets, mixed.INTERFACE) for name in ("model", "decode")}
    report = verify_bundle(bundle, OpenProgram(sessions, states))
    assert not report.passed
    assert {check.step for check in report.tensors if not check.passed} <= {1, 2, 3}


def test_an_engine_is_timed_after_the_steps_before_its_first(folder: Path) -> None:
    bundle = Bundle.open(folder)
    held: list[int] = []

    def noted(values: Mapping[str, Array]) -> dict[str, Array]:
        held.append(int(values["length"][0]))
        return mixed.function(values)

    sessions = {
        "model": ArraySession(mixed.function, mixed.INTERFACE),
        "decode": ArraySession(noted, mixed.INTERFACE),
    }
    program = OpenProgram(sessions, dict.fromkeys(sessions, "carried"))
    assert bench_reference(bundle, program, "decode", runs=3, warmup=1).runs == 3
    assert held == [4] * 4


def test_the_command_line_shows_proves_and_times_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(folder)]) == 0
    told = capsys.readouterr().out
    for line in (
        "state      1 tensor, growing, float32 [batch, past]",
        "state      1 tensor, buffer, float32 [batch, 12]",
        "state      1 tensor, window, float32 [batch, 5]",
        "state      1 tensor, recurrent, float32 [2, batch]",
        "output     seen float32 [batch, past+sequence]",
    ):
        assert line in told
    assert run(["verify", str(folder), "--threads", "1"]) == 0
    capsys.readouterr()
    assert run(["bench", str(folder), "--threads", "1", "--runs", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engines"]["decode"]["runs"] == 2


EDITS: list[tuple[Any, str]] = [
    (lambda m: m["state"]["carried"][2].update(length_input=None), "of kind 'window' has length_input=None"),
    (lambda m: m["state"]["carried"][3].update(axis=0), "of kind 'recurrent' has axis=0"),
    (lambda m: m["state"]["carried"][3].update(shape=[2, 2]), "'batch' must be one size"),
    (lambda m: m["state"]["carried"][1].update(step_dim="batch"), "the carried state steps along batch and sequence"),
    (
        lambda m: m["state"]["carried"][1].update(shape=["batch", 2**31 - 1, 3], dtype="int64", axis=1),
        "carried state of one",
    ),
    (
        lambda m: m["engines"]["model"]["interface"]["outputs"][1].update(shape=["batch", "past + sequence"]),
        "write it as 'past\\+sequence'",
    ),
    (
        lambda m: m["engines"]["model"]["interface"]["outputs"][1].update(shape=["batch", "past+sequence//0"]),
        "a size is divided by a number above 0 alone",
    ),
    (
        lambda m: m["engines"]["model"]["interface"]["inputs"][1].update(shape=["batch", "2*sequence"]),
        "input 'mask' has size '2\\*sequence'",
    ),
]


@pytest.mark.parametrize(("edit", "message"), EDITS)
def test_manifests_that_contradict_themselves(edit: Any, message: str, folder: Path) -> None:
    value = json.loads((folder / "manifest.json").read_bytes())
    assert dump_manifest(parse_manifest(json.dumps(value).encode())) == (folder / "manifest.json").read_bytes()
    edit(value)
    with pytest.raises(BundleError, match=message):
        parse_manifest(json.dumps(value).encode())


def test_a_reference_of_another_shape_than_its_size_says_is_refused(tmp_path: Path) -> None:
    from aigc_runtime.io.npy import write_npy

    manifest, files = mixed.manifest()
    seen = manifest.reference.cases[0].steps[1].outputs["seen"]
    files[seen] = write_npy(np.zeros((1, 6), np.float32))
    write_bundle(tmp_path / "odd", manifest, files)
    bundle = Bundle.open(tmp_path / "odd")
    with (
        open_program(bundle, threads=1) as program,
        pytest.raises(BundleError, match=r"output 'seen' is float32 \[1, 6\], the manifest says float32 \[1, 5\]"),
    ):
        verify_bundle(bundle, program)


def test_a_reference_for_another_number_of_held_steps_is_refused(tmp_path: Path) -> None:
    manifest, files = mixed.manifest()
    case = manifest.reference.cases[0]
    skipped = replace(case, steps=(case.steps[0], *case.steps[2:]))
    reference = replace(manifest.reference, cases=(skipped, *manifest.reference.cases[1:]))
    kept = {**files}
    for stored in (*case.steps[1].inputs.values(), *case.steps[1].outputs.values()):
        kept.pop(stored)
    write_bundle(tmp_path / "skipped", replace(manifest, reference=reference), kept)
    bundle = Bundle.open(tmp_path / "skipped")
    with (
        open_program(bundle, threads=1) as program,
        pytest.raises(BundleError, match="the feeds are for past = 5, the carried state holds 4 steps"),
    ):
        verify_bundle(bundle, program)


def test_rows_are_counted_along_their_own_axis() -> None:
    """The first axis of the first input has 3 numbers, and the state is for 2 rows."""
    interface = Interface(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(3, "batch")),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch",)),),
        dims=(DimSpec(name="batch"),),
        state=(StateSpec(input="h", output="new_h", dtype="float32", shape=("batch",), kind="recurrent"),),
    )

    def function(values: Mapping[str, Array]) -> dict[str, Array]:
        total = values["h"] + values["x"].sum(axis=0)
        return {"y": total, "new_h": total}

    x = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    steps = [("model", {"x": x}, {"y": times * np.array([9, 12], np.float32)}) for times in (1, 2, 3)]
    program = OpenProgram({"model": ArraySession(function, interface)})
    checks = check_tensors(program, [("case", steps)], Tolerance(max_over_rms=1e-6))
    assert [check.passed for check in checks] == [True] * 3
