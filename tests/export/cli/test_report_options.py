"""`--report` and `--junit` are written on every exit code, and tell errors from failures."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from aigc_export.cli import run
from aigc_export.parity.report import junit_xml
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.errors import BundleError

from .test_group import export_arguments

pytestmark = pytest.mark.usefixtures("capture_once")
Capture = pytest.CaptureFixture[str]
QUICK = ["--quality-samples", "0", "--threads", "1"]
STRICT = ["--tolerance", "min_sqnr_db=399"]
"""Which nothing but PyTorch itself meets."""


def reported(arguments: list[str], folder: Path) -> tuple[int, dict[str, object], ET.Element]:
    """Exit code, the JSON report and the JUnit suite of a command line."""
    code = run([*arguments, "--report", str(folder / "r.json"), "--junit", str(folder / "r.xml")])
    found = json.loads((folder / "r.json").read_text())
    suite = ET.fromstring((folder / "r.xml").read_bytes())
    cases = suite.findall("testcase")
    for what, tag in (("failures", "failure"), ("errors", "error")):
        assert int(suite.get(what, "-1")) == sum(case.find(tag) is not None for case in cases)
    assert int(suite.get("tests", "-1")) == len(cases)
    for path in (folder / "r.json", folder / "r.xml"):
        path.unlink()
    return code, found, suite


def counts(suite: ET.Element) -> tuple[int, int]:
    return int(suite.get("failures", "-1")), int(suite.get("errors", "-1"))


def test_every_exit_code_of_verify(copies: Path, checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    good = str(copies / "gan")
    own = ["--checkpoint", str(checkpoints / "gan")]
    code, found, suite = reported(["verify", good, *own, *QUICK], tmp_path)
    assert (code, found["passed"], found["error"], counts(suite)) == (0, True, None, (0, 0))

    code, found, suite = reported(["verify", good, *own, *QUICK, *STRICT], tmp_path)
    assert (code, found["passed"], found["error"]) == (3, False, None)
    assert counts(suite)[0] > 0
    assert counts(suite)[1] == 0

    (copies / "lm" / "model.onnx").write_bytes(b"")
    for arguments, expected, kind, text in (
        (["verify", str(tmp_path / "gone")], 4, "BundleError", "is not a folder"),
        (["verify", str(copies / "lm")], 4, "BundleError", "model.onnx"),
        (["verify", good, "--checkpoint", str(tmp_path / "none")], 2, "CheckpointError", "none"),
        (["verify", good, "--threads", "0"], 2, "InputError", "--threads"),
    ):
        code, found, suite = reported(arguments, tmp_path)
        assert (code, found["passed"], counts(suite)) == (expected, False, (0, 1))
        error = found["error"]
        assert isinstance(error, dict)
        assert (error["kind"], error["exit_code"]) == (kind, expected)
        assert text in error["message"]
        told = suite.find("testcase/error")
        assert told is not None
        assert (told.get("type"), told.get("message")) == (kind, error["message"])
    assert "Traceback" not in capsys.readouterr().err


def test_an_internal_error_and_an_interruption(
    copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for error, expected, text in ((RuntimeError("boom"), 1, "boom"), (KeyboardInterrupt(), 130, "interrupted")):

        def fail(*_: object, error: BaseException = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("aigc_export.tools.verifier.verify_against_torch", fail)
        code, found, suite = reported(["verify", str(copies / "gan")], tmp_path)
        told = found["error"]
        assert isinstance(told, dict)
        assert (code, told["exit_code"], counts(suite)) == (expected, expected, (0, 1))
        assert text in told["message"]


def test_an_export_that_fails_after_parity(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    code, found, suite = reported(["export", "gann", "-o", str(tmp_path / "out")], tmp_path)
    assert (code, counts(suite)) == (2, (0, 1))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28), str(tmp_path / "staging"))

    monkeypatch.setattr("aigc_export.line.exporter.write_bundle", full)
    code, found, suite = reported(export_arguments("gan", checkpoints, tmp_path / "out"), tmp_path)
    assert (code, found["passed"], counts(suite)) == (6, False, (0, 1))
    assert "No space left on device" in str(found["error"])


def test_a_report_that_cannot_be_written_says_so_before_the_work(
    copies: Path, checkpoints: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").touch()
    started = time.perf_counter()
    assert run(["verify", str(copies / "gan"), "--report", str(tmp_path / "file" / "r.json")]) == 6
    assert time.perf_counter() - started < 5
    assert "part of the path is a file" in capsys.readouterr().err


def test_a_lost_report_does_not_change_the_verdict(
    copies: Path, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    common = ["--checkpoint", str(checkpoints / "gan"), *QUICK, *STRICT, "--report", "/dev/full"]
    assert run(["verify", str(copies / "gan"), *common]) == 3
    assert "cannot write '/dev/full'" in capsys.readouterr().err
    assert run(["verify", str(tmp_path / "gone"), *common]) == 4


def test_what_xml_cannot_hold_is_spelled_out() -> None:
    error = BundleError("case '\x00\x1b[2J\ud800' of \U0001f600", hint="\ufffe")
    found = ET.fromstring(junit_xml(None, error, subject="verify \x07", seconds=1.0)).find("testcase/error")
    assert found is not None
    assert found.get("message") == "case '\\x00\\x1b[2J\\ud800' of \U0001f600"
    assert found.text == "exit code 4\n\\ufffe"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_each_report_is_written_whatever_becomes_of_the_other(tmp_path: Path, capsys: Capture) -> None:
    """A JSON report on a full disk took the JUnit report with it."""
    for lost, kept in (("--report", "--junit"), ("--junit", "--report")):
        assert run(["verify", str(tmp_path / "none"), lost, "/dev/full", kept, str(tmp_path / kept)]) == 4
        assert (tmp_path / kept).stat().st_size > 0
        assert "cannot write '/dev/full'" in capsys.readouterr().err


@pytest.mark.parametrize("equals", [False, True])
def test_a_bad_option_is_reported_wherever_it_stands(equals: bool, tmp_path: Path, capsys: Capture) -> None:
    report, junit = tmp_path / "r.json", tmp_path / "r.xml"
    requested = (
        [f"--report={report}", f"--junit={junit}"] if equals else ["--report", str(report), "--junit", str(junit)]
    )
    for arguments in (
        ["verify", "b", "--nope", *requested],
        ["export", *requested, "--seed", "x"],
        ["export", *requested, "a", "b"],
    ):
        assert run(arguments) == 2
        assert json.loads(report.read_text())["error"]["exit_code"] == 2
        assert ET.fromstring(junit.read_bytes()).get("errors") == "1"
        report.unlink()
        junit.unlink()
    assert "No such option" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [["--nope"], ["--seed", "x"]])
def test_the_report_of_a_bad_option_harms_nothing(bad: list[str], copies: Path, capsys: Capture) -> None:
    """Nobody has compared the paths of a command line that was not read to its end."""
    key, gan = copies / "key.pem", copies / "gan"
    key.write_text("mine")
    for arguments in (
        ["export", "gan", "-o", "out", *bad, "--report", str(key), "--sign-key", str(key)],
        ["export", "gan", "-o", "out", *bad, f"--junit={key}", f"--sign-key={key}"],
        ["verify", str(gan), *bad, "--report", str(gan / "r.json")],
    ):
        assert run(arguments) == 2
    assert key.read_text() == "mine"
    Bundle.open(gan)
    assert "is a bundle, which would no longer open" in capsys.readouterr().err
