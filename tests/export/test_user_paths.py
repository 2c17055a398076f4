"""Every option that takes a path: none takes an empty one, and no name ends as an internal error."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click
import pytest

from aigc_export.cli import VERBS, run
from aigc_export.cli.options import PATH, TEXT_PATH

LONG = "x" * 300


def path_parameters() -> list[tuple[str, str]]:
    """(verb, option or argument), of all that take a path."""
    found = []
    for verb, (place, _) in VERBS.items():
        module, _, name = place.partition(":")
        command = getattr(import_module(module), name)
        for parameter in getattr(command, "params", ()):
            if isinstance(parameter.type, click.Path):
                assert parameter.type in (PATH, TEXT_PATH), (verb, parameter.name)
                found.append((verb, max(parameter.opts, key=len)))
    return found


def test_none_takes_an_empty_path(capsys: pytest.CaptureFixture[str]) -> None:
    """`--data "$UNSET"` trained on whatever the program's folder held."""
    found = path_parameters()
    assert len(found) > 30
    for verb, option in found:
        assert run([verb, option, ""] if option.startswith("-") else [verb, ""]) == 2, (verb, option)
        assert "a path is expected, and this one is empty" in capsys.readouterr().err, (verb, option)


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "lm", "-o", "out", "--precision", "int8", "--calibration-data", LONG],
        ["export", "lm", "-o", "out", "--quality-data", LONG],
        ["train", "lm", "-o", "out", "--steps", "1", "--data", LONG],
        ["sign", LONG, "--key", "K"],
    ],
)
def test_a_name_that_is_too_long(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["keygen", "-o", "keys"]) == 0
    code = run(["keys/private.pem" if a == "K" else a for a in arguments])
    told = capsys.readouterr().err
    assert (code, "File name too long" in told) == (4 if arguments[0] == "sign" else 2, True), told
    assert list(tmp_path.iterdir()) == [tmp_path / "keys"]


@pytest.mark.parametrize("place", [".", "/", "..", "inside/out"])
def test_a_bundle_that_cannot_be_there_is_refused_at_once(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`-o .` ended as an internal error; a bundle inside a bundle was published, and the outer one opened no more."""
    (tmp_path / "here" / "inside").mkdir(parents=True)
    (tmp_path / "here" / "inside" / "manifest.json").write_text('{"format": "aigc-bundle"}')
    monkeypatch.chdir(tmp_path / "here")
    assert run(["export", "gan", "-o", place]) == 6
    assert "load" not in (told := capsys.readouterr()).out
    assert told.err.startswith("error: cannot ")
    assert run(["export", "gan", "-o", "out", "--precision", "auto", "--search-dir", "inside/search"]) == 6
    assert "is a bundle, which would no longer open" in capsys.readouterr().err
