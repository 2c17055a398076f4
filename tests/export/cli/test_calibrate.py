"""`aigc-export calibrate` and `export --calibration`: what they print, and what they say when they cannot."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from aigc_calibration.cache import read_calibration
from aigc_export.cli import run
from aigc_export.cli.reporting import StageDisplay
from aigc_runtime.bundle.bundle import Bundle

from ..conftest import tiny_gan, write_checkpoint

pytestmark = pytest.mark.usefixtures("capture_once")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose convolutions have 8-bit kernels."""
    folder = tmp_path_factory.mktemp("cli") / "gan"
    return write_checkpoint(folder, "gan", make=lambda: tiny_gan(image_size=16, upsampling="upsample_conv"))


def calibrate(gan: Path, output: Path, *more: str) -> list[str]:
    return ["calibrate", "gan", "--checkpoint", str(gan), "-o", str(output), "--threads", "1", *more]


def export(gan: Path, output: Path, *more: str) -> list[str]:
    common = ["--checkpoint", str(gan), "-o", str(output), "--threads", "1", "--quality-samples", "0"]
    return ["export", "gan", *common, "--precision", "int8", *more]


def test_from_samples_to_a_bundle(gan: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "new" / "c.npz"
    assert run(calibrate(gan, path, "--calibration-samples", "2000")) == 0
    printed = capsys.readouterr()
    seen = read_calibration(path)
    for stage in ("load", "capture", "onnxslim", "calibrate", "write"):
        assert f"\n{stage} " in f"\n{printed.out}"
    assert "least stable of" in printed.out
    assert seen.statistics.samples_sha256 in printed.out
    assert seen.graph_sha256 in printed.out
    assert (
        f"wrote {path}: 2000 samples (2000 rows in 125 batches), {len(seen.statistics.tensors)} values" in printed.out
    )
    assert "warning" not in printed.out
    # No bar, for there is no terminal.
    assert printed.err == f"note: the folder {str(path.parent)!r} is not there and will be made\n"

    assert run(export(gan, tmp_path / "out", "--calibration", str(path))) == 0
    assert f"calibrate           {path}: 2000 rows" in capsys.readouterr().out
    bundle = Bundle.open(tmp_path / "out")
    assert bundle.manifest.provenance["calibration_samples_sha256"] == seen.statistics.samples_sha256


def test_json_is_one_document(gan: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "c.npz"
    assert run(calibrate(gan, path, "--calibration-samples", "8", "--json")) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    seen = read_calibration(path)
    assert told["output"] == str(path)
    assert told["size_bytes"] == path.stat().st_size
    assert (told["samples"], told["rows"], told["batches"]) == (8, 8, 1)
    assert told["values"] == len(seen.statistics.tensors)
    assert (told["samples_sha256"], told["graph_sha256"]) == (seen.statistics.samples_sha256, seen.graph_sha256)
    assert {"name", "amax", "instability"} == told["ranges"][0].keys()
    assert "ranges change from one half of the samples to the other" in told["warnings"][0]
    assert "calibrate" in printed.err
    assert run(export(gan, tmp_path / "out", "--calibration", str(path), "--json")) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["warnings"] == told["warnings"]
    assert "\nwarning             ranges change from one half of the samples to the other" in printed.err


def test_a_warning_has_a_line_of_its_own(gan: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(calibrate(gan, tmp_path / "c.npz", "--calibration-samples", "8")) == 0
    assert "\nwarning             ranges change from one half of the samples to the other" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["calibrate", "gann", "-o", "x"], "unknown model 'gann'", "Did you mean 'gan'?"),
        (["calibrate", "gan", "-o", "x", "--target", "ort-gpu"], "unknown target 'ort-gpu'", "ort-cpu"),
        (["calibrate", "gan", "-o", "x", "--precision", "int88"], "'int88'", "Did you mean 'int8'?"),
        (["calibrate", "gan", "-o", "x", "--precision", "fp32"], "fp32 needs no ranges", "int8"),
        (["calibrate", "gan", "-o", "x", "--precision", "int4"], "int4 needs no ranges", "--precision is one of"),
        (["calibrate", "gan", "-o", "x", "--precision", "auto"], "a search reads a calibration", "--precision int8"),
        (["calibrate", "gan", "-o", "x", "--calibration-samples", "0"], "--calibration-samples", "x>=1"),
        (["calibrate", "gan", "-o", "x", "--seed", "-1"], "--seed", "x>=0"),
        (["calibrate", "gan", "-o", "x", "--cache", "growing"], "cache", "gan"),
        (["calibrate", "gan", "-o", "x", "--calibration-data", "nowhere.npz"], "no such file: 'nowhere.npz'", "path"),
        (["calibrate", "gan"], "-o", ""),
        (["export", "gan", "-o", "x", "--calibration", "c.npz"], "fp32, which needs none", "--precision int8"),
        (
            ["export", "gan", "-o", "x", "--precision", "int8", "--calibration", "c.npz"],
            "no such file: 'c.npz'",
            "write",
        ),
        (
            ["export", "gan", "-o", "x", "--precision", "int4", "--calibration", "c.npz"],
            "int4 reads no ranges",
            "leave",
        ),
        (
            ["export", "gan", "-o", "x", "--precision", "int8", "--calibration", "c", "--calibration-samples", "9"],
            "were both given",
            "leave one out",
        ),
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
    assert list(tmp_path.iterdir()) == []


def test_bad_data_and_a_bad_place(gan: Path, tmp_path: Path, capsys: Capture) -> None:
    np.savez(tmp_path / "data.npz", latents=np.ones((8, 6), np.float32), class_labels=np.arange(8))
    assert run(calibrate(gan, tmp_path / "c.npz", "--calibration-data", str(tmp_path / "data.npz"))) == 2
    assert "'latents' is one constant" in capsys.readouterr().err
    (tmp_path / "file").write_text("mine")
    assert run(calibrate(gan, tmp_path / "file" / "c.npz", "--calibration-samples", "8")) == 6
    assert "Traceback" not in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.npz", "file"]


def test_a_file_that_belongs_to_another_model(gan: Path, checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(calibrate(gan, tmp_path / "c.npz", "--calibration-samples", "32")) == 0
    assert run(export(checkpoints / "gan", tmp_path / "out", "--calibration", str(tmp_path / "c.npz"))) == 2
    error = capsys.readouterr().err
    assert "the calibration belongs to another graph" in error
    assert "run `aigc-export calibrate` again" in error
    raw = (tmp_path / "c.npz").read_bytes()
    (tmp_path / "c.npz").write_bytes(raw[: len(raw) // 2])
    assert run(export(gan, tmp_path / "out", "--calibration", str(tmp_path / "c.npz"))) == 2
    assert "is damaged" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]


# The bar


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def work(lines: Console, live: Console, *, bar: bool = True) -> None:
    with StageDisplay(lines, "calibrate x", bar=bar, live=live) as shown:
        shown.stage("load", "a [b] c")
        for phase in ("channels", "ranges"):
            for seen in (8, 16, 24):
                shown.progress(phase, seen, 24)
        shown.stage("warning", "give more samples")


def test_the_bar_counts_samples_of_every_phase_on_a_terminal() -> None:
    lines, live = terminal(), terminal()
    work(lines, live)
    assert "load                \x1b[0ma [b] c" in written(lines)
    assert "\x1b[1;33mwarning" in written(lines)
    for text in ("channels", "ranges", "24/24"):
        assert text in written(live)
    assert written(live).count("\x1b[?25l") == written(live).count("\x1b[?25h")  # the cursor is given back


def test_there_is_no_bar_without_a_terminal_or_where_it_is_not_wanted() -> None:
    lines, live = Console(file=io.StringIO(), width=100), Console(file=io.StringIO(), width=100)
    work(lines, live)
    assert written(live) == ""
    assert written(lines).splitlines() == ["load                a [b] c", "warning             give more samples"]
    live = terminal()
    work(lines, live, bar=False)
    assert "24/24" not in written(live)


def test_the_bar_is_gone_after_a_failure() -> None:
    live = terminal()

    def fail() -> None:
        with StageDisplay(terminal(), "x", live=live) as shown:
            shown.progress("ranges", 8, 24)
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert "ranges" in written(live)
    assert written(live).count("\x1b[?25l") == written(live).count("\x1b[?25h")
