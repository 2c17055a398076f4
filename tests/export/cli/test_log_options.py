"""`--log FILE` and `--verbose` of `aigc-export`: every verb takes them, and nothing is told twice."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from aigc_export.cli import VERBS, run
from aigc_export.cli.group import cli

from .test_group import export_arguments

pytestmark = pytest.mark.usefixtures("capture_once")
Capture = pytest.CaptureFixture[str]


def test_every_verb_takes_them() -> None:
    context = click.Context(cli)
    for verb in VERBS:
        command = cli.get_command(context, verb)
        assert command is not None
        flags = {flag for parameter in command.params for flag in parameter.opts}
        # `generate` and `chat` hand all that they are given to the command line of the runtime, which takes them.
        assert {"--verbose", "--log"} <= flags or verb in ("generate", "chat")
        assert len(cli.get_command(context, verb).params) == len(command.params)  # type: ignore[union-attr]


def test_an_export_keeps_what_it_did(checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    log = tmp_path / "logs" / "export.log"
    assert run(export_arguments("gan", checkpoints, tmp_path / "out", "--log", str(log), "--verbose")) == 0
    printed = capsys.readouterr()
    text = log.read_text()
    assert text.splitlines()[0].endswith(f"--log {log} --verbose")
    for told in ("load: gan", "capture: ", "build: ", "parity: ", "publish: ", "torch 2.", "exit code 0"):
        assert told in text
        # A stage is on standard output already; what only the log has is shown on standard error.
        assert (told in printed.err) is (told in {"torch 2.", "exit code 0"})
    assert "aigc_runtime.bundle.bundle: published" in text
    assert "ExportRecipe(" in text


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["export", "gann", "-o", "out"], 2, "unknown model 'gann'"),
        (["export", "gan", "-o", "out", "--nope"], 2, "No such option '--nope'"),
        (["explain", "gan"], 2, "unknown command 'explain'"),
        (["verify", "gone"], 4, "is not a folder"),
        (["generate", "gone", "--prompt", "a"], 4, "is not a folder"),
        (["inspect"], 2, "Missing argument 'MODEL|BUNDLE'"),
    ],
)
def test_a_verb_that_fails_keeps_a_log(
    arguments: list[str], code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*arguments, "--log", "run.log"]) == code
    text = Path("run.log").read_text()
    assert told in text
    assert f"exit code {code} " in text.splitlines()[-1]
    assert "Traceback (most recent call last)" in text
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["export", "gan", "-o", "out", "--log", "out/run.log"], 2, "is inside 'out', which --output replaces"),
        (["export", "gan", "-o", "out", "--sign-key", "key.pem", "--log", "key.pem"], 2, "is what --sign-key reads"),
        (["export", "gan", "-o", "out", "--nope", "--sign-key", "key.pem", "--log", "key.pem"], 2, "No such option"),
        (["export", "gan", "-o", "out", "--nope", "--log", "out/run.log"], 2, "No such option"),
        (["verify", "b", "--report", "r", "--log", "r"], 2, "is where --report writes"),
        (["models", "--log", "key.pem/run.log"], 6, "part of the path is a file"),
        (["models", "--json", "--log", "."], 6, "a directory of that name is in the way"),
    ],
)
def test_a_log_harms_nothing(
    arguments: list[str], code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("key.pem").write_text("mine")
    assert run(arguments) == code
    assert told in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["key.pem"]
    assert Path("key.pem").read_text() == "mine"
