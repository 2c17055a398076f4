"""`aigc-export`: what it prints, what it writes, and what it says when it cannot."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aigc_export.cli import VERBS, run
from aigc_export.workloads import WORKLOADS
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.core.compare import Tolerance

from ..conftest import TINY, tiny_lm, write_checkpoint
from ..line.test_exporter import rewrite_weight

pytestmark = pytest.mark.usefixtures("capture_once")
Capture = pytest.CaptureFixture[str]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def export_arguments(name: str, checkpoints: Path, output: Path, *more: str) -> list[str]:
    arguments = ["export", name, "--checkpoint", str(checkpoints / name), "-o", str(output), "--threads", "1"]
    return [*arguments, "--quality-samples", "0", *more]


# Help


def test_help_lists_every_verb(capsys: Capture) -> None:
    assert run(["-h"]) == 0
    text = capsys.readouterr().out
    assert "Example: aigc-export export lm" in text
    for verb, (_, summary) in VERBS.items():
        assert f"  {verb}" in text
        assert summary in text


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_has_help_with_an_example(verb: str, capsys: Capture) -> None:
    assert run([verb, "-h"]) == 0
    text = capsys.readouterr().out
    assert f"aigc-export {verb}" in text
    assert "xample" in text


def test_help_and_version_do_not_pay_for_torch() -> None:
    script = "import sys; from aigc_export.cli import run; run(['-h']); run(['--version']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "aigc-export 0." in done.stdout
    assert not {"torch", "onnx", "onnxruntime", "numpy"} & set(ast.literal_eval(done.stdout.splitlines()[-1]))


# What it does


def test_models_lists_what_ships(capsys: Capture) -> None:
    assert run(["models"]) == 0
    text = capsys.readouterr().out
    assert run(["models", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {m["kind"] for m in told["models"]} == {"text", "diffusion", "gan"}
    assert "fp32" in told["targets"]["ort-cpu"]["precisions"]
    for model in told["models"]:
        assert model["name"] in text
        assert f"{model['parameters']:,}" in text


@pytest.mark.parametrize(
    "name", [name if name == "gan" else pytest.param(name, marks=pytest.mark.slow) for name in TINY]
)
def test_the_line_from_the_shell(name: str, checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "new" / "bundle"
    files = ["--report", str(tmp_path / "r.json"), "--junit", str(tmp_path / "r.xml")]
    assert run(export_arguments(name, checkpoints, output, *files)) == 0
    text = capsys.readouterr().out
    for stage in ("load", "capture", "onnxscript-optimize", "onnxslim", "build", "reference", "parity", "publish"):
        assert f"\n{stage} " in f"\n{text}"
    assert f"published {output}" in text
    assert json.loads((tmp_path / "r.json").read_text())["passed"] is True
    assert ET.fromstring((tmp_path / "r.xml").read_bytes()).get("failures") == "0"

    common = [str(output), "--checkpoint", str(checkpoints / name), "--threads", "1"]
    assert run(["verify", *common, "--quality-samples", "0"]) == 0
    assert "tensor" in capsys.readouterr().out
    assert run(["verify", *common, "--quality-samples", "0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["passed"], told["divergence"]) == (True, None)

    assert run(["inspect", str(output)]) == 0
    text = capsys.readouterr().out
    assert run(["inspect", str(output), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    graph = told["graphs"]["model"]
    assert graph["nodes"] == sum(graph["operators"].values())
    assert str(graph["nodes"]) in text.replace(",", "")
    assert told["manifest"]["provenance"]["torch"] == torch.__version__

    assert run(["bench", *common, "--rounds", "1", "--runs", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["torch_ms"] > 0
    assert told["speedup"] == pytest.approx(told["torch_ms"] / told["runtime_ms"])
    assert told["limits"]["weight_bytes"] > 1000
    assert told["limits"]["flops"] > 1000
    assert run(["bench", *common, "--rounds", "1", "--runs", "2"]) == 0
    text = capsys.readouterr().out
    assert "whole generation" in text
    assert "of this machine's limits: " in text

    request = ["--prompt", "ab", "--max-new-tokens", "4"] if name == "lm" else ["-o", str(tmp_path / "x.png")]
    assert run(["generate", str(output), *request]) == 0
    assert ("ab" if name == "lm" else "wrote") in capsys.readouterr().out


def test_json_is_alone_on_standard_output(checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(export_arguments("gan", checkpoints, tmp_path / "out", "--json")) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    bundle = Bundle.open(tmp_path / "out")
    assert told["manifest_sha256"] == bundle.manifest_sha256
    assert told["size_bytes"] == bundle.size_bytes
    assert told["parity"]["passed"] is True
    assert "capture" in printed.err


@pytest.mark.slow
def test_the_two_caches_from_the_shell(checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    for kind in ("growing", "buffer"):
        assert run(export_arguments("lm", checkpoints, tmp_path / kind, "--cache", kind)) == 0
        assert {s.kind for s in Bundle.open(tmp_path / kind).manifest.interface.state} == {kind}


@pytest.mark.slow
def test_a_sample_of_any_size_from_the_shell(checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(export_arguments("unet", checkpoints, tmp_path / "out", "--dynamic-size")) == 0
    sample = next(t for t in Bundle.open(tmp_path / "out").manifest.interface.inputs if t.name == "sample")
    assert all(isinstance(size, str) for size in sample.shape[2:])


# What it refuses


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["exprt"], "unknown command 'exprt'", "Did you mean 'export'?"),
        (
            ["export", "unett", "-o", "x"],
            "unknown model 'unett'",
            "valid: emoji, fashion, gan, lm, unet. Did you mean 'unet'?",
        ),
        (["export", "lm", "-o", "x", "--target", "ort-cpuu"], "unknown target 'ort-cpuu'", "Did you mean 'ort-cpu'?"),
        (["export", "lm", "-o", "x", "--precision", "fp3"], "'fp3'", "Did you mean 'fp32'?"),
        (["export", "lm", "-o", "x", "--cache", "grown"], "'grown'", "Did you mean 'growing'?"),
        (["export", "gan", "-o", "x", "--cache", "growing"], "cache", "gan"),
        (["export", "lm", "-o", "x", "--dynamic-size"], "dynamic_size", "lm"),
        (["export", "lm", "-o", "x", "--quality-samples", "1"], "quality_samples is 1", "at least 2"),
        (["export", "lm", "-o", "x", "--quality-samples", "-1"], "quality_samples is -1", "0 leaves quality out"),
        (["export", "lm", "-o", "x", "--threads", "0"], "--threads", "x>=1"),
        (["export", "lm", "-o", "x", "--seed", "-1"], "--seed", "x>=0"),
        (["export", "lm", "-o", "x", "--checkpoint", "nowhere"], "nowhere", ""),
        (["export", "lm"], "-o", ""),
        (["export"], "MODEL", ""),
        (["export", "lm", "-o", "x", "--fast"], "--fast", ""),
        (["train", "lmm", "-o", "x"], "'lmm'", "Did you mean 'lm'?"),
        (["train", "lm", "-o", "x", "--steps", "0"], "steps is 0", "must be from 1 to"),
        (["train", "lm", "-o", "x", "--data", "nowhere"], "nowhere", ""),
        (["train", "unet", "-o", "x", "--data", "nowhere"], "nowhere", ""),
        (["train", "lm", "-o", "x", "--seed", "-1"], "seed", ""),
        (["demo", "--quality-samples", "1"], "--quality-samples", "x>=2"),
    ],
)
def test_bad_requests(
    arguments: list[str],
    message: str,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert hint in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["verify", "bench", "generate"])
def test_a_bundle_that_is_none(verb: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("{}")
    for name, message in (("nothing", "is not a folder"), ("file", "is not a folder"), ("folder", "manifest.json")):
        more = ["--prompt", "a"] if verb == "generate" else []
        assert run([verb, str(tmp_path / name), *more]) == 4
        assert message in capsys.readouterr().err


def break_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def first(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name, t in sorted(tensors.items()) if t.ndim == 2)


def nan_weight(folder: Path) -> None:
    break_weights(folder, lambda t: t[first(t)].view(-1)[3].fill_(float("nan")))


def other_shape(folder: Path) -> None:
    break_weights(folder, lambda t: t.update({first(t): torch.zeros(3, 7)}))


def missing(folder: Path) -> None:
    break_weights(folder, lambda t: t.pop(first(t)))


def surplus(folder: Path) -> None:
    break_weights(folder, lambda t: t.update(stranger=torch.zeros(2)))


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(2)}, folder / "model.safetensors")


def garbage_config(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")


def other_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["class_embedding_size"] = 5
    (folder / "config.json").write_text(json.dumps(config))


def unknown_setting(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["color"] = "red"
    (folder / "config.json").write_text(json.dumps(config))


def other_family(folder: Path) -> None:
    shutil.rmtree(folder)
    write_checkpoint(folder, "unet")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "messages"),
    [
        (nan_weight, ["class_embedding.weight", "NaN"]),
        (other_shape, ["class_embedding.weight", "[3, 7]", "[10, 3]"]),
        (missing, ["class_embedding.weight", "missing"]),
        (surplus, ["stranger"]),
        (truncated, ["model.safetensors"]),
        (pickled, ["model.safetensors"]),
        (garbage_config, ["config.json"]),
        (other_width, ["class_embedding.weight", "[10, 3]", "[10, 5]"]),
        (unknown_setting, ["color"]),
        (other_family, ["unet", "gan"]),
        (no_weights, ["model.safetensors"]),
    ],
)
def test_bad_checkpoints(damage: Callable[[Path], None], messages: list[str], tmp_path: Path, capsys: Capture) -> None:
    write_checkpoint(tmp_path / "gan", "gan")
    damage(tmp_path / "gan")
    assert run(export_arguments("gan", tmp_path, tmp_path / "out")) == 2
    printed = capsys.readouterr()
    for message in messages:
        assert message in printed.err, printed.err
    assert not (tmp_path / "out").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gan"]


def test_missed_parity_is_exit_code_3(
    copies: Path, checkpoints: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    before = contents(copies / "gan")
    gan = WORKLOADS["gan"]
    strict = replace(gan.tolerances["fp32"], tensor=Tolerance(min_sqnr_db=390.0))
    monkeypatch.setitem(WORKLOADS, "gan", replace(gan, tolerances={**gan.tolerances, "fp32": strict}))
    files = ["--report", str(tmp_path / "r.json"), "--junit", str(tmp_path / "r.xml")]
    assert run(export_arguments("gan", checkpoints, copies / "gan", "--bisect", *files)) == 3
    printed = capsys.readouterr()
    assert "FAIL" in printed.out
    assert "nothing was published" in printed.err
    assert contents(copies / "gan") == before
    assert json.loads((tmp_path / "r.json").read_text())["passed"] is False
    assert int(ET.fromstring((tmp_path / "r.xml").read_bytes()).get("failures", "0")) > 0


def test_verify_of_an_engine_with_other_weights_is_exit_code_3(
    copies: Path, checkpoints: Path, capsys: Capture
) -> None:
    rewrite_weight(copies / "gan", "blocks.0")
    common = [str(copies / "gan"), "--checkpoint", str(checkpoints / "gan"), "--quality-samples", "0", "--bisect"]
    assert run(["verify", *common]) == 3
    text = capsys.readouterr().out
    assert "FAIL" in text
    assert "first divergence: node " in text
    assert run(["verify", *common, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["divergence"]["found"] is True


def test_a_damaged_bundle_is_exit_code_4(copies: Path, checkpoints: Path, capsys: Capture) -> None:
    path = copies / "gan" / "model.onnx"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    for verb in ("verify", "bench", "inspect"):
        assert run([verb, str(copies / "gan")]) == 4
        assert "'model.onnx' has SHA-256" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["file", "file/below", "read-only/below"])
def test_an_output_that_cannot_be_written(place: str, checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    if place.startswith("read-only") and os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "read-only").mkdir(mode=0o500)
    assert run(export_arguments("gan", checkpoints, tmp_path / place)) == 6
    assert "Traceback" not in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
    assert list((tmp_path / "read-only").iterdir()) == []


def test_a_report_that_cannot_be_written(checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("mine")
    assert run(export_arguments("gan", checkpoints, tmp_path / "out", "--report", str(tmp_path / "file" / "r"))) == 6
    assert "file" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 7 TiB"), KeyError("surprise")])
def test_what_nobody_foresaw_is_one_message(
    error: Exception, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("aigc_export.prepare.prepare.capture", fail)
    monkeypatch.delenv("AIGC_DEBUG", raising=False)
    code = run(export_arguments("gan", checkpoints, tmp_path / "out"))
    printed = capsys.readouterr()
    assert (code, "not enough memory: Unable" in printed.err) == ((2, True) if code == 2 else (1, False))
    assert ("set AIGC_DEBUG=1" in printed.err) is (code == 1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("AIGC_DEBUG", "1")
    assert run(export_arguments("gan", checkpoints, tmp_path / "out")) == code
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.slow
def test_training_from_the_shell(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps on the user's own text, and the checkpoint goes through the line."""
    monkeypatch.setattr("aigc_models.training.families.SAMPLES", 20)
    # Small: the recipe's own size is trained in tests/models/training, and exported as the shipped model.
    monkeypatch.setattr("aigc_models.training.recipes.lm_model", lambda: tiny_lm(context_length=256).config)
    (tmp_path / "texts").mkdir()
    words = np.random.default_rng(0).choice(["alpha ", "beta ", "gamma\n"], size=4000)
    (tmp_path / "texts" / "a.txt").write_text("".join(words))
    data = ["--data", str(tmp_path / "texts"), "--steps", "2", "--json"]
    assert run(["train", "lm", "-o", str(tmp_path / "lm"), *data]) == 0
    assert json.loads(capsys.readouterr().out)["quality"]["bits_per_byte"] > 0
    assert run(export_arguments("lm", tmp_path, tmp_path / "out")) == 0
