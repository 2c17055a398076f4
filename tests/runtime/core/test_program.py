"""Programs of several engines: opened, run on carried state that they share, closed, proven, timed and shown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.backends.ort import backend
from aigc_runtime.backends.ort.providers import OrtBuild
from aigc_runtime.bundle.bundle import Bundle, write_bundle
from aigc_runtime.bundle.manifest import Manifest, PipelineInfo
from aigc_runtime.bundle.manifest_file import dump_manifest, parse_manifest
from aigc_runtime.cli.main import run
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array, TensorSpec
from aigc_runtime.errors import BundleError, EngineError, FeedError, UnknownNameError
from aigc_runtime.io.jsonable import to_json
from aigc_runtime.opening import open_pipeline, open_program, open_session
from aigc_runtime.proof.verify import verify_bundle

from .. import toys
from ..compiled import BUILD

FEEDS = toys.lm_feeds([[5]])


def two_engines(cache: str = "growing") -> tuple[Manifest, dict[str, bytes | Path]]:
    """The toy language model twice over one carried state: `model` runs the prompt, `decode` the tokens after it."""
    manifest, files = toys.toy_manifest(f"toy_lm_{cache}")
    files["decode.onnx"] = files["model.onnx"]
    engines = {"model": manifest.engine, "decode": replace(manifest.engine, file="decode.onnx")}
    case = manifest.reference.cases[0]
    assert len(case.steps) > 1
    steps = (case.steps[0], *(replace(step, engine="decode") for step in case.steps[1:]))
    reference = replace(manifest.reference, cases=(replace(case, steps=steps),))
    return replace(manifest, engines=engines, reference=reference), files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    manifest, files = two_engines()
    write_bundle(tmp_path / "two", manifest, files)
    return tmp_path / "two"


@pytest.mark.parametrize("cache", ["growing", "buffer"])
def test_state_that_one_engine_began_another_goes_on_with(cache: str, tmp_path: Path) -> None:
    """The toy's next token is the sum of all before it: of what the other engine has read, too."""
    manifest, files = two_engines(cache)
    write_bundle(tmp_path / "two", manifest, files)
    with open_program(Bundle.open(tmp_path / "two"), threads=1) as program:
        state = program.new_state(1)
        program.run("model", toys.lm_feeds([[5, 6, 7]]), state)
        logits = program.run("decode", toys.lm_feeds([[4]]), state)["logits"]
    assert int(logits[0, -1].argmax()) == 5 + 6 + 7 + 4


@pytest.mark.parametrize("cache", ["growing", "buffer"])
def test_a_text_pipeline_of_two_engines(
    cache: str, tmp_path: Path, toy_bundles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Opened, proven, timed and run as prefill and decode over one state of ONNX Runtime."""
    manifest, files = two_engines(cache)
    renamed = {"prefill": manifest.engines["model"], "decode": manifest.engines["decode"]}
    (case,) = manifest.reference.cases
    steps = (replace(case.steps[0], engine="prefill"), *case.steps[1:])
    manifest = replace(
        manifest,
        engines=renamed,
        pipeline=PipelineInfo.of(toys.TEXT, {"prefill": "prefill", "decode": "decode"}),
        reference=replace(manifest.reference, cases=(replace(case, steps=steps),)),
    )
    write_bundle(tmp_path / "two", manifest, files)
    bundle = Bundle.open(tmp_path / "two")
    with open_pipeline(bundle, threads=1) as pipeline, open_pipeline(toy_bundles / f"toy_lm_{cache}") as alone:
        assert verify_bundle(bundle, pipeline.program).passed
        for prompts in (["ab"], ["a", "hello", "xy"]):
            found, wanted = (p.generate(prompts, max_new_tokens=9, seed=1) for p in (pipeline, alone))
            assert [row.token_ids.tolist() for row in found] == [row.token_ids.tolist() for row in wanted]
    arguments = ["generate", str(bundle.path), "--prompt", "ab", "--max-new-tokens", "3", "--threads", "1", "--json"]
    assert run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["token_ids"] == [
        195,
        134,
        12,
    ]  # 97 + 98, and so on modulo 256
    assert run(["bench", str(bundle.path), "--runs", "2", "--threads", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engines"].keys() == {"prefill", "decode"}


def with_byte_products(cache: str = "growing") -> tuple[Manifest, dict[str, bytes | Path]]:
    """Two engines, of which the first multiplies bytes that it makes while it runs."""
    manifest, files = two_engines(cache)
    first = replace(manifest.engines["model"], build=OrtBuild(byte_products=True))
    return replace(manifest, engines={"model": first, "decode": manifest.engines["decode"]}), files


@pytest.mark.parametrize("saturates", [False, True])
@pytest.mark.parametrize("low_memory", [False, True])
def test_an_engine_stands_in_where_products_saturate_or_memory_is_short(
    saturates: bool, low_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "products_saturate", lambda _: saturates)
    write_bundle(tmp_path / "two", *with_byte_products())
    with open_program(Bundle.open(tmp_path / "two"), threads=1, low_memory=low_memory) as program:
        assert set(program.sessions) == {"model", "decode"}
        assert (program.session("model") is program.session("decode")) == (saturates or low_memory)
        state = program.new_state(1)
        program.run("model", toys.lm_feeds([[5, 6, 7]]), state)
        logits = program.run("decode", toys.lm_feeds([[4]]), state)["logits"]
        alone = program.session("decode").engine_seconds
        assert program.engine_seconds == pytest.approx(alone) or not (saturates or low_memory)
    assert int(logits[0, -1].argmax()) == 5 + 6 + 7 + 4


def test_no_engine_stands_in_for_one_of_another_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "products_saturate", lambda _: True)
    manifest, files = toys.toy_manifest("toy_lm_growing")
    alone = replace(manifest, engines={"model": replace(manifest.engine, build=OrtBuild(byte_products=True))})
    write_bundle(tmp_path / "one", alone, files)
    with open_program(Bundle.open(tmp_path / "one"), threads=1) as program:
        assert int(program.run("model", FEEDS, program.new_state(1))["logits"][0, -1].argmax()) == 5


def test_engines_that_take_turns_each_run_themselves(tmp_path: Path) -> None:
    """Buffers are bound once for a set of shapes, by each engine for itself."""
    onnx = pytest.importorskip("onnx")
    manifest, files = two_engines("buffer")
    stored = files["decode.onnx"]
    assert isinstance(stored, bytes)
    graph = onnx.load_model_from_string(stored)
    logits = next(node for node in graph.graph.node if "logits" in node.output)
    logits.output[list(logits.output).index("logits")] = "before"
    graph.graph.node.append(onnx.helper.make_node("Neg", ["before"], ["logits"]))
    files["decode.onnx"] = graph.SerializeToString()
    write_bundle(tmp_path / "two", manifest, files)
    with open_program(Bundle.open(tmp_path / "two"), threads=1) as program:
        state = program.new_state(1)
        turns = [program.run(name, FEEDS, state)["logits"] for name in ("model", "decode", "model", "decode")]
    assert [int(turn[0, -1].argmax()) for turn in turns[::2]] == [5, 15]
    assert [int(turn[0, -1].argmin()) for turn in turns[1::2]] == [10, 20]


def test_engines_of_different_states_share_nothing() -> None:
    with open_two({"a": "one", "b": "other"}) as program:
        state = program.new_state(1)
        first = program.run("a", FEEDS, state)["logits"]
        second = program.run("b", FEEDS, state)["logits"]
    assert int(first[0, -1].argmax()) == int(second[0, -1].argmax()) == 5


def open_two(states: Mapping[str, str]) -> OpenProgram:
    interface = Interface(
        inputs=toys.LM_INPUTS, outputs=toys.LM_OUTPUTS, dims=toys.LM_DIMS, state=toys.lm_state("growing")
    )
    return OpenProgram({name: ArraySession(toys.lm_function, interface) for name in states}, states)


def test_a_program_closes_every_session_and_says_what_failed() -> None:
    class Broken(ArraySession):
        def close(self) -> None:
            super().close()
            raise EngineError("cannot be closed")

    whole = open_two({"a": "one", "b": "one"})
    sessions = {"a": Broken(toys.lm_function, whole.session("a").interface), "b": whole.session("b")}
    with pytest.raises(EngineError, match="cannot be closed"):
        OpenProgram(sessions).close()
    for session in sessions.values():
        with pytest.raises(EngineError, match="closed"):
            session.run(FEEDS, session.new_state(1))


def test_an_engine_that_does_not_open_leaves_no_session(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def first_alone(bundle: Bundle, *, engine: str, threads: int | None) -> Any:
        if opened:
            raise EngineError("no memory for the second")
        opened.append(open_session(bundle, engine=engine, threads=threads))
        return opened[0]

    monkeypatch.setattr("aigc_runtime.opening.open_session", first_alone)
    with pytest.raises(EngineError, match="no memory for the second"):
        open_program(Bundle.open(folder))
    with pytest.raises(EngineError, match="closed"):
        opened[0].run(FEEDS, opened[0].new_state(1))


def test_unknown_engines_are_refused(folder: Path) -> None:
    bundle = Bundle.open(folder)
    with pytest.raises(UnknownNameError, match=r"unknown engine 'decoder'"):
        open_session(bundle, engine="decoder")
    with open_program(bundle, threads=1) as program, pytest.raises(UnknownNameError, match="unknown engine 'prefill'"):
        program.run("prefill", {}, program.new_state(1))


def test_every_engine_is_proven(folder: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(folder)
    with open_program(bundle, threads=1) as program:
        report = verify_bundle(bundle, program)
    assert report.passed
    assert {check.engine for check in report.tensors} == {"model", "decode"}

    def wrong(values: Mapping[str, Array]) -> dict[str, Array]:
        return {**toys.lm_function(values), "logits": -toys.lm_function(values)["logits"]}

    with open_program(bundle, threads=1) as program:
        broken = ArraySession(wrong, program.session("decode").interface)
        mixed = OpenProgram(
            {"model": ArraySession(toys.lm_function, broken.interface), "decode": broken}, program.states
        )
        report = verify_bundle(bundle, mixed)
    assert {check.engine for check in report.tensors if not check.passed} == {"decode"}
    assert "output 'logits' of engine 'decode': " in report.failures[0]


def test_the_command_line_shows_proves_and_times_every_engine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "engine     model: onnxruntime (model.onnx)" in told
    assert "engine     decode: onnxruntime (decode.onnx)" in told
    assert run(["verify", str(folder), "--threads", "1"]) == 0
    told = capsys.readouterr().out
    assert "pass  case step 0 logits: " in told
    assert "pass  case step 1 decode.logits: " in told
    assert run(["bench", str(folder), "--threads", "1", "--runs", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engines"]["decode"]["runs"] == 2
    assert run(["doctor", str(folder)]) == 0


BAD: list[tuple[Any, str]] = [
    (lambda m: m["engines"].pop("model"), r"the only engine is called 'decode'\nmust be model"),
    (
        lambda m: m["engines"].update(prefill=m["engines"].pop("model")),
        r"engines has no 'model', which the pipeline drives as 'model'\nit has: decode, prefill",
    ),
    (lambda m: m["engines"].update({"a/b": m["engines"]["decode"]}), r"engines holds the name 'a/b'"),
    (
        lambda m: m["engines"]["decode"]["interface"].update(state="other"),
        r"interface\.state is 'other'\nknown: carried",
    ),
    (lambda m: m["engines"].update(more=m["engines"]["decode"]), "reference has no step of engine 'more'"),
    (lambda m: m["reference"]["cases"][0]["steps"][0].update(engine="zz"), "is of engine 'zz'\nknown: model, decode"),
    (lambda m: m["state"].update(other=m["state"]["carried"]), "state 'other' is that of no engine"),
    (lambda m: m["state"].update(carried=[]), "state 'carried' has no tensors"),
    (lambda m: m.update(shared_files=["none.data"]), r"files lacks \['none\.data'\]"),
    (lambda m: m.update(shared_files=["model.onnx", "model.onnx"]), "shared_files names a file twice"),
    (lambda m: m["engines"]["decode"].update(kind="zz"), "unknown engine 'zz'"),
    (
        lambda m: [e.update(kind="tensorrt-rtx", build=to_json(BUILD)) for e in m["engines"].values()],
        r"that cannot share one: model \(tensorrt-rtx\), decode \(tensorrt-rtx\)",
    ),
    (
        lambda m: m["engines"]["decode"].update(
            build={"provider": "cuda", "min_version": "", "rows_apart": False, "byte_products": False}
        ),
        "they must be of one kind, for one device",
    ),
    (lambda m: m["engines"]["decode"].update(file="none.onnx"), r"files lacks \['none\.onnx'\]"),
]


@pytest.mark.parametrize(("edit", "message"), BAD)
def test_manifests_that_contradict_themselves(edit: Any, message: str, folder: Path) -> None:
    value = json.loads((folder / "manifest.json").read_bytes())
    assert dump_manifest(parse_manifest(json.dumps(value).encode())) == (folder / "manifest.json").read_bytes()
    edit(value)
    with pytest.raises(BundleError, match=message):
        parse_manifest(json.dumps(value).encode())


def test_the_fixtures_of_pytest_prove_every_engine(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "test_bundle.py").write_text("""
def test_parity(aigc_parity):
    assert aigc_parity.passed
    assert {check.engine for check in aigc_parity.tensors} == {"model", "decode"}
""")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "aigc_runtime.pytest_plugin", "-p", "no:cacheprovider"]
    command += ["--rootdir", str(tmp_path), "--aigc-bundle", str(folder), "--aigc-threads", "1", "test_bundle.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_rows_of_a_state_are_those_of_the_engine_that_begins_it() -> None:
    """The engine before it has no batch: it takes one table for all rows."""
    table = Interface(
        inputs=(TensorSpec(name="table", dtype="float32", shape=(5, 2)),),
        outputs=(TensorSpec(name="sum", dtype="float32", shape=()),),
    )
    program = OpenProgram(
        {"table": ArraySession(lambda v: {"sum": v["table"].sum()}, table), "model": toys.lm_session()}
    )
    feeds = toys.lm_feeds([[5], [7], [9]])
    state = program.new_state()
    assert program.run("table", {"table": np.ones((5, 2), np.float32)}, state)["sum"] == 10
    for k in (1, 2, 4):
        assert program.run("model", feeds, state)["logits"][:, -1].argmax(axis=1).tolist() == [5 * k, 7 * k, 9 * k]
        feeds = {**feeds, "input_ids": k * np.array([[5], [7], [9]])}
    for wrong in ({}, {**FEEDS, "input_ids": [[5]]}):
        with pytest.raises(FeedError, match=r"wrong inputs|is a list, not a numpy array"):
            program.run("model", wrong, program.new_state())  # type: ignore[arg-type]
