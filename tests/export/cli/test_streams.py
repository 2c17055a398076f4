"""Every verb of `aigc-export` into a pipe whose reader has gone, a full disk, another encoding; and signals."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aigc_export.cli import VERBS, run
from aigc_export.line.exporter import ExportResult
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.cli.entry import run_program

from ...processes import FULL, clean, command, interrupt, run_into
from .test_group import export_arguments

pytestmark = [pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full"), pytest.mark.usefixtures("capture_once")]
QUICK = ["--quality-samples", "0", "--threads", "1"]
STRICT = ["--tolerance", "min_sqnr_db=399"]
"""Which nothing but PyTorch itself meets."""


@pytest.fixture
def _own_handlers() -> Iterator[None]:
    """A program that ends ignores signals; the test run goes on."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def into_gone_pipe(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The command line, its standard output a real pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    with monkeypatch.context() as patched, open(writer, "w", buffering=1, encoding="utf-8", closefd=False) as out:
        patched.setattr("sys.stdout", out)
        code = run_program(run, arguments)
    os.close(writer)
    return code


@pytest.fixture
def requests_of(
    copies: Path, results: dict[str, ExportResult], checkpoints: Path, tmp_path: Path
) -> dict[str, list[tuple[list[str], int]]]:
    """Verb -> what is asked of it, and the verdict."""
    gan, lm, own = str(copies / "gan"), str(copies / "lm"), ["--checkpoint", str(checkpoints / "gan")]
    sampled = ["--calibration-samples", "16", "--threads", "1", *own]
    timed = ["--rounds", "1", "--runs", "1", "--threads", "1"]
    assert run(["keygen", "-o", str(tmp_path / "first")]) == 0
    return {
        "models": [(["models"], 0)],
        "calibrate": [(["calibrate", "gan", "-o", str(tmp_path / "c.npz"), *sampled], 0)],
        "sensitivity": [(["sensitivity", "gan", *sampled], 0)],
        "export": [
            (export_arguments("gan", checkpoints, tmp_path / "out"), 0),
            (export_arguments("gan", tmp_path / "none", tmp_path / "none"), 2),
        ],
        "keygen": [(["keygen", "-o", str(tmp_path / "keys")], 0), (["keygen", "-o", str(tmp_path / "first")], 6)],
        "sign": [(["sign", gan, "--key", str(tmp_path / "first" / "private.pem")], 0)],
        "verify": [
            (["verify", gan, *own, *QUICK], 0),
            (["verify", gan, *own, *QUICK, *STRICT], 3),
            (["verify", str(tmp_path), *QUICK], 4),
        ],
        "generate": [(["generate", lm, "--prompt", "a", "--max-new-tokens", "3"], 0), (["generate", lm], 2)],
        "chat": [(["chat", lm], 2), (["chat", gan], 2)],
        "bench": [(["bench", gan, *own, *timed], 0)],
        "compare": [(["compare", gan, gan, *timed, "--quality-samples", "0"], 0)],
        "inspect": [(["inspect", gan], 0), (["inspect", gan, "--json"], 0), (["inspect", "lm"], 0)],
        "doctor": [(["doctor"], 0)],
        "check": [(["check", gan, "--device", "rtx-3060"], 0)],
    }


@pytest.mark.usefixtures("_own_handlers")
def test_the_verdict_of_every_verb(
    requests_of: dict[str, list[tuple[list[str], int]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # `train` and `demo` take longer: below.
    assert set(requests_of) | {"train", "demo"} == set(VERBS)
    for requested in requests_of.values():
        for arguments, verdict in requested:
            assert into_gone_pipe(arguments, monkeypatch) == verdict, arguments
    # What nobody watched was done all the same.
    assert Bundle.open(tmp_path / "out").manifest.name == "gan"
    assert (tmp_path / "c.npz").stat().st_size > 0


@pytest.mark.slow
def test_the_gate_of_a_shell(copies: Path, checkpoints: Path, tmp_path: Path) -> None:
    """As CI runs it: the code of a command whose reader has gone, in a process of its own."""
    own = ["--checkpoint", str(checkpoints / "gan")]
    program = command("aigc-export", "verify", str(copies / "gan"), *own, *QUICK, *STRICT)
    code, errors = run_into("gone", program)
    assert (code, errors) == (3, "")
    assert run_into("full", program)[0] == 3
    arguments = ["train", "classifier", "-o", str(tmp_path / "trained"), "--steps", "1"]
    assert run_into("gone", command("aigc-export", *arguments))[0] == 0
    assert (tmp_path / "trained" / "config.json").is_file()


@pytest.mark.slow
def test_a_table_in_another_encoding(copies: Path) -> None:
    program = command("aigc-export", "inspect", str(copies / "gan"))
    done = subprocess.run(program, capture_output=True, check=False, env=clean({"PYTHONIOENCODING": "ascii"}))
    assert (done.returncode, done.stderr) == (0, b"")
    assert "model.onnx" in done.stdout.decode("ascii")
    assert b"?" not in done.stdout  # lines are drawn in characters that there are
    code, errors = run_into("full", program)
    assert code == 6
    assert errors.startswith("error: cannot write to standard output: No space left on device\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "after"),
    [(signal.SIGINT, 130, "load"), (signal.SIGINT, 130, "onnxslim"), (signal.SIGTERM, 143, "load")],
)
def test_a_signal_in_a_stage(number: signal.Signals, code: int, after: str, checkpoints: Path, tmp_path: Path) -> None:
    """Capture comes after `load`, building and proving after `onnxslim`."""
    (tmp_path / "tmp").mkdir()
    # Many samples to judge, so that the signal comes before the bundle on the quickest machine.
    samples = ("--quality-samples", "20000")
    program = command("aigc-export", *export_arguments("gan", checkpoints, tmp_path / "out", *samples))
    found = interrupt(program, after=after, delay=0.05, number=number, environment={"TMPDIR": str(tmp_path / "tmp")})
    assert found[::2] == (code, "error: interrupted; nothing was published\n")
    assert [p.name for p in tmp_path.iterdir()] == ["tmp"]
    assert list((tmp_path / "tmp").glob("*aigc*")) == []


@pytest.mark.parametrize("delay", [0.2, pytest.param(0.9, marks=pytest.mark.slow)])
def test_a_signal_while_libraries_are_imported(delay: float, checkpoints: Path, tmp_path: Path) -> None:
    program = command("aigc-export", *export_arguments("gan", checkpoints, tmp_path / "out"))
    code, _, errors = interrupt(program, delay=delay)
    assert (code, errors.startswith("error: interrupted"), errors.count("\n")) == (130, True, 1)


def living(folder: Path) -> list[int]:
    """Processes that were started with this folder in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return [pid for pid in found if pid != os.getpid()]


SWEPT = {
    "export": ["export", "gan", "-o", "OUT", "--quality-samples", "8", "--threads", "1"],
    "export int8": ["export", "gan", "-o", "OUT", "--precision", "int8-weight", "--quality-samples", "0"],
    "calibrate": ["calibrate", "unet", "-o", "OUT/c.npz", "--threads", "1"],
    "sensitivity": ["sensitivity", "gan", "--jobs", "2", "--threads", "1"],
    "train": ["train", "gan", "-o", "OUT", "--steps", "300"],
    "verify": ["verify", "BUNDLE"],
    "compare": ["compare", "BUNDLE", "BUNDLE"],
    "bench": ["bench", "BUNDLE", "--rounds", "50"],
    "generate": ["generate", "BUNDLE", "-o", "OUT/x.png", "--count", "50"],
    "demo": ["demo", "-o", "OUT"],
}


@pytest.mark.stress
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("verb", list(SWEPT))
def test_signals_at_many_times(verb: str, results: dict[str, ExportResult], tmp_path: Path) -> None:
    """A run ends as it should or is interrupted; nothing half-written, and no child, is left."""
    (tmp_path / "tmp").mkdir()
    places = {"BUNDLE": str(results["gan"].bundle.path), "OUT": str(tmp_path / "out")}
    arguments = [a.replace("OUT", places["OUT"]).replace("BUNDLE", places["BUNDLE"]) for a in SWEPT[verb]]
    for step in range(24):
        number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[step % 3]
        code, _, errors = interrupt(
            command("aigc-export", *arguments),
            delay=0.25 + 0.35 * step,
            number=number,
            times=1 + 4 * (step % 2),
            environment={"TMPDIR": str(tmp_path / "tmp")},
        )
        assert code in (0, 128 + number, 3), (step, code, errors)
        assert "Traceback" not in errors, (step, errors)
        assert "Exception ignored" not in errors, (step, errors)
        left = {p.name for p in tmp_path.rglob("*") if p.name.startswith((".aigc", ".c.npz", ".x.png", "aigc-"))}
        assert left == set(), step
        assert living(tmp_path) == []
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
