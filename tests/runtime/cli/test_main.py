"""`aigc-run`: what it prints, what it writes, and what it says when it cannot."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aigc_runtime.cli.main import run
from aigc_runtime.proof import fastest_threads
from aigc_runtime.system.processor import instruction_set

NAMES = ("toy_lm_growing", "toy_lm_buffer", "toy_unet", "toy_gan")


def test_info_of_every_family(toy_bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        assert run(["info", str(toy_bundles / name)]) == 0
        assert capsys.readouterr().out.startswith(f"{name}: ")
        assert run(["info", str(toy_bundles / name), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        raw = (toy_bundles / name / "manifest.json").read_bytes()
        assert told["manifest"] == json.loads(raw)
        assert told["manifest_sha256"] == hashlib.sha256(raw).hexdigest()


def test_verify_of_every_family(toy_bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        assert run(["verify", str(toy_bundles / name), "--threads", "1"]) == 0
        assert capsys.readouterr().out.endswith("verified\n")
        assert run(["verify", str(toy_bundles / name), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["passed"] is True


def test_bench_of_every_family(toy_bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        assert run(["bench", str(toy_bundles / name), "--runs", "3", "--json", "--threads", "1"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["step"]["runs"] == 3
        assert 0 < told["generation"]["python_share"] < 1
    assert run(["bench", str(toy_bundles / "toy_gan"), "--runs", "3", "--threads", "1"]) == 0
    text = capsys.readouterr().out
    assert "around the engine" in text
    assert f"processor   {instruction_set()}, 1 thread\n" in text


def test_threads_are_chosen_by_trying(
    toy_bundles: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastest_threads, "SECONDS", 0.0)
    gan = str(toy_bundles / "toy_gan")
    assert run(["bench", gan, "--runs", "3", "--json", "--threads", "auto"]) == 0
    told = capsys.readouterr()
    assert told.err.startswith(f"threads {json.loads(told.out)['threads']}, by the time of a step (")
    assert run(["verify", gan, "--threads", "auto"]) == 0
    assert "by the time of a step" in capsys.readouterr().err
    lm = ["generate", str(toy_bundles / "toy_lm_growing"), "--prompt", "ab", "--max-new-tokens", "2"]
    assert run([*lm, "--threads", "auto"]) == 0
    told = capsys.readouterr()
    assert "by the time of a step" in told.err
    assert told.out.startswith("ab")
    assert run(["bench", gan, "--threads", "many"]) == 2
    assert "'many' is neither a number nor auto" in capsys.readouterr().err
    assert run(["bench", gan, "--threads", "0"]) == 2
    assert "threads is 0" in capsys.readouterr().err


def test_text_goes_to_the_terminal(toy_bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(toy_bundles / "toy_lm_growing")
    assert run(["generate", bundle, "--prompt", "ab", "--max-new-tokens", "5", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["results"]
    assert (len(told["token_ids"]), told["finish_reason"], told["prompt_tokens"]) == (5, "length", 2)
    assert run(["generate", bundle, "--prompt", "ab", "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out == "ab" + told["text"] + "\n"
    (tmp_path / "prompt.txt").write_text("ab")
    assert run(["generate", bundle, "--prompt-file", str(tmp_path / "prompt.txt"), "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out == "ab" + told["text"] + "\n"


@pytest.mark.parametrize(
    "options", [["--steps", "2", "--sampler", "euler", "--guidance-scale", "2"], ["--eta", "1", "--count", "2"]]
)
def test_diffusion_images_go_to_a_file(
    toy_bundles: Path, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new folder" / "image.png"
    assert run(["generate", str(toy_bundles / "toy_unet"), "-o", str(output), "--class", "0,2", *options]) == 0
    assert "wrote" in capsys.readouterr().out
    assert output.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "labels", "line"),
    [
        (["--class", "honey bee"], [1], "; class: honey bee\n"),
        (["--class", "cat, wild"], [2], "; class: cat, wild\n"),
        (["--class", "2,ant"], [2, 0], "; classes row by row: cat, wild, ant\n"),
        (["--class", "ant,2", "--count", "2"], [0, 2, 0, 2], "; columns: ant, cat, wild\n"),
        ([], [0, 1, 2], "; classes row by row: ant, honey bee, cat, wild\n"),
    ],
)
def test_classes_go_by_name_or_number(
    toy_bundles: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    labels: list[int],
    line: str,
) -> None:
    arguments = ["generate", str(toy_bundles / "toy_unet"), *options, "-o"]
    assert run([*arguments, str(tmp_path / "a.png"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["class_labels"] == labels
    assert printed["class_names"] == [("ant", "honey bee", "cat, wild")[label] for label in labels]
    assert run([*arguments, str(tmp_path / "b.png")]) == 0
    assert capsys.readouterr().out.endswith(line)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_info_names_the_classes(toy_bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(toy_bundles / "toy_unet")]) == 0
    assert "classes    0 ant, 1 honey bee, 2 cat, wild\n" in capsys.readouterr().out
    assert run(["info", str(toy_bundles / "toy_gan")]) == 0
    assert "classes" not in capsys.readouterr().out


def test_gan_images_go_to_a_file(toy_bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", str(toy_bundles / "toy_gan"), "--truncation", "1", "--scale", "2", "--json"]
    assert run([*arguments, "-o", str(tmp_path / "a.png")]) == 0
    assert json.loads(capsys.readouterr().out)["class_labels"] == [0, 1, 2]
    assert run([*arguments, "-o", str(tmp_path / "b.png")]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("bundle", "arguments", "code", "message"),
    [
        ("toy_gan", ["--prompt", "a", "-o", "x.png"], 2, "--prompt means nothing to a gan bundle"),
        ("toy_gan", ["--steps", "3", "-o", "x.png"], 2, "--steps means nothing to a gan bundle"),
        ("toy_gan", [], 2, "images need a file"),
        ("toy_gan", ["-o", "x.png", "--class", "3"], 2, "no class '3'\n  classes are numbers, 0 to 2"),
        ("toy_gan", ["-o", "x.png", "--class", "one"], 2, "no class 'one'"),
        ("toy_gan", ["-o", "x.png", "--count", "0"], 2, "--count is 0"),
        ("toy_gan", ["-o", "x.png", "--scale", "0"], 2, "scale=0"),
        ("toy_gan", ["-o", "x.png", "--seed", "-1"], 2, "seed is -1"),
        ("toy_gan", ["-o", "x.png", "--truncation", "0"], 2, "truncation is 0.0"),
        ("toy_unet", ["-o", "x.png", "--class", "aunt"], 2, "classes: 0 ant, 1 honey bee, 2 cat, wild; give names"),
        ("toy_unet", ["-o", "x.png", "--class", "ant,cat"], 2, "no class 'cat'"),
        ("toy_unet", ["-o", "x.png", "--steps", "0"], 2, "steps is 0"),
        ("toy_unet", ["-o", "x.png", "--sampler", "dim"], 2, "Did you mean 'ddim'?"),
        ("toy_unet", ["-o", "x.png", "--threads", "0"], 2, "threads is 0"),
        ("toy_unet", ["-o", "x.png", "--stepz", "0"], 2, "unrecognized arguments"),
        ("toy_lm_growing", [], 2, "text needs a prompt"),
        ("toy_lm_growing", ["--prompt", ""], 2, "prompt 0 is empty"),
        ("toy_lm_growing", ["--prompt", "a" * 40], 2, "prompt 0 has 40 tokens, the context holds 32"),
        ("toy_lm_growing", ["--prompt", "a", "--prompt-file", "b"], 2, "text needs a prompt"),
        ("toy_lm_growing", ["--prompt-file", "/no/such/file"], 2, "cannot read the prompt from '/no/such/file'"),
        ("toy_lm_growing", ["--prompt", "a", "--temperature", "nan"], 2, "temperature is nan"),
        ("toy_lm_growing", ["--prompt", "a", "--top-p", "0"], 2, "top_p is 0.0"),
        ("toy_lm_growing", ["--prompt", "a", "--stop", ""], 2, "stop is ['']"),
        ("nothing", ["--prompt", "a"], 4, "is not a folder"),
    ],
)
def test_bad_requests_end_with_a_message_and_a_code(
    toy_bundles: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bundle: str,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["generate", str(toy_bundles / bundle), *arguments]) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_usage_errors_name_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["info"], ["inform", "x"], ["info", "a", "b"]):
        assert run(arguments) == 2
        assert " -h`" in capsys.readouterr().err


def test_every_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("", "info", "verify", "generate", "bench"):
        assert run([verb, "-h"] if verb else ["-h"]) == 0
        assert "example: aigc-run" in capsys.readouterr().out


def test_a_bundle_that_misses_its_limits_exits_with_3(
    toy_bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from aigc_runtime.bundle.bundle import write_bundle
    from aigc_runtime.io.npy import read_npy, write_npy

    from .. import toys

    manifest, files = toys.toy_manifest("toy_gan")
    name = "ref.0.out.image.npy"
    original = files[name]
    assert isinstance(original, bytes)
    files[name] = write_npy(read_npy(original) + 0.5)
    write_bundle(tmp_path / "wrong", manifest, files)
    assert run(["verify", str(tmp_path / "wrong")]) == 3
    assert capsys.readouterr().out.endswith("NOT verified\n")


def test_a_damaged_bundle_exits_with_4(toy_bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(toy_bundles / "toy_gan", tmp_path / "cut")
    with (tmp_path / "cut" / "model.onnx").open("r+b") as file:
        file.truncate(100)
    for verb in ("info", "verify", "bench"):
        assert run([verb, str(tmp_path / "cut")]) == 4
        assert "'model.onnx' has 100 bytes" in capsys.readouterr().err


def test_a_pinned_manifest_is_held_to(toy_bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = toy_bundles / "toy_gan"
    digest = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert run(["info", str(bundle), "--expect-manifest-sha256", digest]) == 0
    assert run(["info", str(bundle), "--expect-manifest-sha256", "0" * 64]) == 4
    assert "this is not the bundle you pinned" in capsys.readouterr().err


def test_an_unwritable_picture_exits_with_6(toy_bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", str(toy_bundles / "toy_gan"), "-o", "/proc/no/picture.png"]) == 6
    assert "cannot write '/proc/no/picture.png'" in capsys.readouterr().err


def test_an_internal_error_is_one_line_unless_debugging(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_arguments: object) -> int:
        raise RuntimeError("boom")

    monkeypatch.delenv("AIGC_DEBUG", raising=False)
    monkeypatch.setattr("aigc_runtime.cli.verbs.info", broken)
    assert run(["info", "x"]) == 1
    assert capsys.readouterr().err.startswith("error: internal error: RuntimeError: boom\n")
    monkeypatch.setenv("AIGC_DEBUG", "1")
    assert run(["info", "x"]) == 1
    assert "Traceback" in capsys.readouterr().err


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "aigc_runtime", *arguments]


def test_the_module_runs_and_prints_its_version() -> None:
    done = subprocess.run(command("--version"), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("aigc-run ")


def test_a_reader_that_goes_away_is_no_error(toy_bundles: Path) -> None:
    writer = subprocess.Popen(
        command("info", str(toy_bundles / "toy_gan"), "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.close()
    errors = writer.stderr.read().decode()
    writer.stderr.close()
    assert writer.wait(timeout=60) == 0
    assert errors == ""
