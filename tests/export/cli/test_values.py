"""What users type into `aigc-export`: numbers beyond all limits, and names that a terminal must not see raw."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path

import onnx
import pytest
from rich.console import Console

from aigc_calibration.config import QuantConfig
from aigc_calibration.search.workers import make_workers
from aigc_export.cli import run
from aigc_export.cli.options import show_warnings
from aigc_export.cli.reporting import StageDisplay
from aigc_export.recipes.budget import parse_budget
from aigc_export.recipes.recipe import export_recipe
from aigc_export.recipes.search import SearchConfig
from aigc_export.tools.timing import check_rounds
from aigc_runtime.errors import InputError

ODD = "a\x1b[31m\x07b"
HUGE = 10**5000
OPTIONS = {
    "export": ("--quality-samples", "--threads", "--calibration-samples", "--jobs", "--seed"),
    "calibrate": ("--threads", "--calibration-samples", "--seed"),
    "sensitivity": ("--threads", "--calibration-samples", "--seed", "--jobs"),
    "verify": ("--threads", "--quality-samples", "--seed"),
    "compare": ("--threads", "--quality-samples", "--seed", "--rounds", "--runs"),
    "bench": ("--threads", "--rounds", "--runs"),
    "train": ("--steps", "--batch-size", "--learning-rate", "--size", "--seed", "--channels"),
}
CASES = [(verb, option) for verb, options in OPTIONS.items() for option in options]


@pytest.mark.parametrize("value", [str(10**20), "1e400", "nan", "3x", "7" * 5000, "-1"])
@pytest.mark.parametrize(("verb", "option"), CASES)
def test_numbers_beyond_all_limits(
    verb: str, option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {
        "export": ["lm", "-o", str(tmp_path / "b"), "--precision", "auto" if option == "--jobs" else "int8"],
        "calibrate": ["gan", "-o", str(tmp_path / "c")],
        "sensitivity": ["gan"],
        "verify": [str(tmp_path)],
        "compare": [str(tmp_path), str(tmp_path)],
        "bench": [str(tmp_path)],
        "train": ["gan", "-o", str(tmp_path / "t")],
    }[verb]
    assert run([verb, *given, option, value]) in (2, 4)
    said = capsys.readouterr().err
    assert "internal" not in said
    assert len(said) < 1200
    assert not any(tmp_path.iterdir())


def test_the_limits_hold_in_python() -> None:
    for count in (-1, 1, 100_001, HUGE, 2.5):
        with pytest.raises(InputError, match=r"quality_samples is .*\n.*at most 100,000"):
            export_recipe("lm", quality_samples=count)
    for threads in (0, 1025, HUGE):
        with pytest.raises(InputError, match="threads is"):
            export_recipe("lm", threads=threads)
    for seed in (-1, 2**64, HUGE):
        with pytest.raises(InputError, match="seed is"):
            export_recipe("lm", seed=seed)
    for jobs in (0, 257, HUGE):
        with pytest.raises(InputError, match=r"jobs is .*\nmust be from 1 to 256"):
            make_workers(jobs=jobs)
        with pytest.raises(InputError, match="jobs is"):
            SearchConfig(budgets=(parse_budget("psnr>=40"),), jobs=jobs)
    for samples in (0, 1_000_001, HUGE):
        with pytest.raises(InputError, match=r"samples is .*\nmust be from 1 to 1,000,000"):
            QuantConfig(samples=samples)
    for rounds in (0, 10_001, HUGE):
        with pytest.raises(InputError, match=r"rounds is .*\nmust be from 1 to 10,000"):
            check_rounds(rounds)


def test_stages_and_warnings_show_names_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    with StageDisplay(Console(file=out, width=200), "export", bar=False) as shown:
        shown.stage("publish", f"{ODD}\n[/]")
    assert out.getvalue().rstrip("\n") == "publish             a\\x1b[31m\\x07b\\n[/]"
    show_warnings(ODD)
    assert capsys.readouterr().err == "warning: a\\x1b[31m\\x07b\n"


def test_written_names_are_shown_escaped(
    results: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIGC_KEY_PASSPHRASE", raising=False)
    bundle, keys = tmp_path / f"bundle{ODD}", tmp_path / f"keys{ODD}"
    shutil.copytree(results["gan"].bundle.path, bundle)  # type: ignore[attr-defined]
    assert run(["keygen", "-o", str(keys)]) == 0
    assert run(["sign", str(bundle), "--key", str(keys / "private.pem")]) == 0
    assert run(["inspect", str(bundle)]) == 0
    assert run(["generate", str(bundle), "-o", str(tmp_path / f"x{ODD}.png")]) == 0
    printed = capsys.readouterr()
    assert "a\\x1b[31m\\x07b" in printed.out
    assert "\x1b" not in printed.out + printed.err


def test_words_that_click_refuses_are_shown_escaped_and_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "gan", f"--{ODD}"]) == 2
    assert run(["export", "lm", "-o", "x", f"--{'y' * 5000}"]) == 2
    said = capsys.readouterr().err
    assert "--a\\x1b[31m\\x07b" in said
    assert "\x1b" not in said
    assert len(said) < 1200


def rewritten(folder: Path, name: str, data: bytes) -> Path:
    """A bundle whose file `name` holds something else, with its hash in the manifest."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["files"]:
        if entry["path"] == name:
            entry.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("model.onnx", b"\xff\x01" * 500, "model.onnx is not an ONNX graph"),
        ("model.onnx", b"hello", "model.onnx is not an ONNX graph"),
        ("plan.json", b"null", "plan.json is not a quantization plan"),
        ("plan.json", b'{"version": 2, "ops": 3}', "plan.json: "),
        ("plan.json", b"\xff", "plan.json is not valid"),
    ],
)
def test_a_damaged_file_of_a_bundle_is_told_by_its_name(
    name: str, data: bytes, message: str, results: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "b"
    shutil.copytree(results["gan"].bundle.path, folder)  # type: ignore[attr-defined]
    if name == "plan.json":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"].append({"path": name, "size": 0, "sha256": "0" * 64})
        (folder / "manifest.json").write_text(json.dumps(manifest))
    assert run(["inspect", str(rewritten(folder, name, data))]) == 4
    assert message in capsys.readouterr().err


def test_a_graph_without_weights_is_inspected(
    results: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "b"
    shutil.copytree(results["gan"].bundle.path, folder)  # type: ignore[attr-defined]
    model = onnx.load(str(folder / "model.onnx"))
    del model.graph.initializer[:]
    assert run(["inspect", str(rewritten(folder, "model.onnx", model.SerializeToString()))]) == 0
    assert "0 parameters\n" in capsys.readouterr().out
