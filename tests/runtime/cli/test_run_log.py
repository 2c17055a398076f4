"""`--log FILE` and `--verbose` of `aigc-run`: what a run did, whatever became of it."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from pathlib import Path

import pytest

from aigc_runtime.cli.log_handlers import PACKAGES
from aigc_runtime.cli.main import run
from aigc_runtime.cli.run_log import requested_path, run_logged
from aigc_runtime.errors import OutputError

Capture = pytest.CaptureFixture[str]
RECORD = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) +[\w.]+: ")


def records(text: str) -> list[str]:
    """The records of a log, each with the lines that go on from it."""
    found: list[str] = []
    for line in text.splitlines():
        if RECORD.match(line):
            found.append(line)
        else:
            assert line.startswith("    ")
            found[-1] += "\n" + line
    return found


def state() -> object:
    loggers = [logging.getLogger(name) for name in (None, *PACKAGES)]
    return [(logger.level, list(logger.handlers)) for logger in loggers], warnings.showwarning


@pytest.mark.parametrize("verb", ["info", "verify", "generate", "bench", "doctor"])
def test_every_verb_keeps_a_log(verb: str, toy_bundles: Path, tmp_path: Path, capsys: Capture) -> None:
    before = state()
    bundle, log = toy_bundles / "toy_gan", tmp_path / "new" / "run.log"
    more = {"generate": ["-o", str(tmp_path / "a.png")], "bench": ["--runs", "1"]}.get(verb, [])
    assert run([verb, str(bundle), *more, "--log", str(log)]) == 0
    assert not RECORD.search(capsys.readouterr().err)
    text = log.read_text()
    first, *_, last = records(text)
    assert first.endswith(f": aigc-run {verb} {bundle} {' '.join([*more, '--log', str(log)])}")
    assert re.search(r"exit code 0 after \d+\.\d s", last)
    assert re.search(r"numpy \d+\.\d+.*onnxruntime \d+\.", text)
    assert re.search(r"Python 3\.\d+\.\d+", text)
    assert f"opened {bundle}: toy_gan, manifest" in text
    assert ("engine model: onnxruntime, opened in" in text) is (verb in {"verify", "generate", "bench"})
    assert ("model.image:" in text) is (verb == "verify")
    assert state() == before


def test_verbose_shows_it_on_standard_error(toy_bundles: Path, capsys: Capture) -> None:
    assert run(["verify", str(toy_bundles / "toy_gan"), "--json", "--verbose"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["passed"]
    assert len(records(printed.err)) > 5
    assert run(["verify", str(toy_bundles / "toy_gan")]) == 0
    assert capsys.readouterr().err == ""


def test_a_failure_is_there_with_its_whole_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def broken(_arguments: object) -> int:
        try:
            return int("five")
        except ValueError as err:
            raise RuntimeError("boom") from err

    monkeypatch.setattr("aigc_runtime.cli.verbs.info", broken)
    log = tmp_path / "run.log"
    assert run(["info", "x", "--log", str(log)]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: internal error: RuntimeError: boom\n")
    assert "--log FILE" in printed
    text = log.read_text()
    assert "ERROR   aigc_runtime.cli.run_log: internal error: RuntimeError: boom\n" in text
    for line in ("invalid literal for int() with base 10: 'five'", "direct cause", 'return int("five")'):
        assert line in text
    assert "exit code 1 after" in records(text)[-1]
    assert text.count("Traceback") == 2


@pytest.mark.parametrize("flag", [["--log", "run.log"], ["--log=run.log"]])
@pytest.mark.parametrize("bad", [["info", "b", "--nope"], ["info"], ["nope", "b"], ["verify", "b", "--threads", "x"]])
def test_what_is_refused_before_a_verb_runs_is_logged(
    bad: list[str], flag: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*bad, *flag]) == 2
    told = capsys.readouterr().err.removeprefix("error: ").splitlines()[0]
    assert told in Path("run.log").read_text()


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    toy_bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def verb(_arguments: object) -> int:
        raise AssertionError("the work began")

    monkeypatch.setattr("aigc_runtime.cli.verbs.info", verb)
    (tmp_path / "file").touch()
    bundle = toy_bundles / "toy_gan"
    listed = sorted(bundle.iterdir())
    for place, told in (
        (tmp_path / "file" / "run.log", "part of the path is a file"),
        (tmp_path, "a directory of that name is in the way"),
        (bundle / "run.log", "is a bundle, which would no longer open"),
        (Path("/proc/no/run.log"), "cannot write"),
    ):
        assert run(["info", str(bundle), "--log", str(place)]) == 6, place
        assert told in capsys.readouterr().err
    assert sorted(bundle.iterdir()) == listed


def test_a_log_never_takes_the_place_of_another_file(toy_bundles: Path, tmp_path: Path, capsys: Capture) -> None:
    mine = tmp_path / "prompt.txt"
    mine.write_text("ab")
    text = str(toy_bundles / "toy_lm_growing")
    for more in (
        ["--prompt-file", str(mine)],
        [f"--prompt-file={mine}"],
        ["--nope", str(mine)],
        ["--nope=a", str(mine)],
    ):
        assert run(["generate", text, *more, "--log", str(mine)]) == 2
        assert run(["generate", text, *more, f"--log={tmp_path}/../{tmp_path.name}/prompt.txt"]) == 2
    assert "is the path of another argument, too" in capsys.readouterr().err
    assert run(["info", str(tmp_path), "--nope", "--log", str(tmp_path / "new.log")]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["prompt.txt"]
    assert mine.read_text() == "ab"


def test_standard_output_is_for_one_document(toy_bundles: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = str(toy_bundles / "toy_gan")
    assert run(["info", bundle, "--json", "--log", "/dev/stdout"]) == 2
    assert "--json and the log both write to standard output" in capfd.readouterr().err
    assert run(["info", bundle, "--log", "/dev/stderr"]) == 0
    assert "exit code 0" in capfd.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_that_is_lost_leaves_the_verdict(toy_bundles: Path, tmp_path: Path, capsys: Capture) -> None:
    lost = ["--log", "/dev/full"]
    assert run(["verify", str(toy_bundles / "toy_gan"), *lost]) == 6
    printed = capsys.readouterr()
    assert "verified" in printed.out
    assert "cannot write '/dev/full': No space left on device" in printed.err
    assert run(["verify", str(tmp_path), *lost]) == 4
    assert "cannot write '/dev/full'" in capsys.readouterr().err


def test_nothing_that_is_logged_looks_like_another_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    other = logging.getLogger("another.library")
    monkeypatch.setattr(other, "level", logging.DEBUG)  # as PyTorch's is, which leaves it to the handlers
    # Without pytest's own handlers, whose records go from process to process, where no lone surrogate can be sent.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    forged = "ok\n2026-01-01T00:00:00.000Z INFO    aigc_runtime.bundle: signed by us\x1b[2J \ud800"

    def verb() -> None:
        logging.getLogger("aigc_runtime.bundle").info("%s", forged)
        other.info("not ours")
        other.warning("theirs")

    assert run_logged(verb, program="p", arguments=[], verbose=False, path=tmp_path / "log") == 0
    shown = capsys.readouterr().err
    assert ("theirs" in shown, "not ours" in shown, "signed by us" in shown) == (True, False, False)
    told = next(r for r in records((tmp_path / "log").read_text()) if "aigc_runtime.bundle" in r)
    assert told.endswith(": ok\n    2026-01-01T00:00:00.000Z INFO    aigc_runtime.bundle: signed by us\\x1b[2J \\ud800")
    text = (tmp_path / "log").read_text()
    assert ("theirs" in text, "not ours" in text) == (True, False)


def test_warnings_are_shown_and_logged(tmp_path: Path, capsys: Capture) -> None:
    def verb() -> None:
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        run_logged(verb, program="p", arguments=[], verbose=True, path=tmp_path / "log")
    assert "WARNING aigc_runtime.cli.log_handlers: DeprecationWarning: old (" in (tmp_path / "log").read_text()
    assert [str(warning.message) for warning in shown] == ["old"]
    assert "old" not in capsys.readouterr().err  # where it is shown is not the business of the log


def test_a_second_run_replaces_the_log_and_keeps_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "log")
    for word in ("first", "second"):
        run_logged(lambda: 0, program=word, arguments=[], verbose=False, path=tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert "second" in (tmp_path / "log").read_text()
    assert "first" not in (tmp_path / "log").read_text()


def test_a_pipe_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="cannot write"):
        run_logged(lambda: 0, program="p", arguments=[], verbose=False, path=tmp_path / "pipe")


def test_the_path_that_a_flag_names() -> None:
    assert requested_path("--log", ["a", "--log", "x", "--log=y"]) == Path("y")
    assert requested_path("--log", ["a", "--log"]) is None
    assert requested_path("--log", ["a", "--log="]) is None
    assert requested_path("--log", ["--input=z=y", "--log=./y"]) is None
