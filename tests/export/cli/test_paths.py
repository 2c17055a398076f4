"""Every option that takes a path: none takes an empty one, and no name ends as an internal error."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import click
import pytest

from aigc_export.cli import VERBS, run
from aigc_export.cli.paths import OptionPath
from aigc_runtime.bundle.bundle import Bundle

LONG = "x" * 300


def path_parameters() -> list[tuple[str, str]]:
    """(verb, option or argument), of all that take a path."""
    found = []
    for verb, (place, _) in VERBS.items():
        module, _, name = place.partition(":")
        command = getattr(import_module(module), name)
        for parameter in getattr(command, "params", ()):
            if isinstance(parameter.type, click.Path):
                assert isinstance(parameter.type, OptionPath), (verb, parameter.name)
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
        ["export", "lm", "-o", "out", "--eval-data", LONG],
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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["verify", "b", "--report", "x", "--junit", "./x"], "is where --report writes"),
        (["export", "gan", "-o", "out", "--report", "out/r.json"], "is replaced as a whole, and --report writes into"),
        (["export", "gan", "--junit", "link/r.xml", "-o", "real"], "is replaced as a whole, and --junit writes into"),
        (["export", "gan", "-o", "out", "--report", "out"], "is where --report writes"),
        (["export", "gan", "-o", "out", "--search-dir", "out/s"], "is inside 'out', which --output replaces"),
        (["export", "gan", "-o", "out", "--report", "key.pem", "--sign-key", "key.pem"], "is where --report writes"),
        (["export", "gan", "-o", "out", "--calibration", "c.npz", "--junit", "c.npz"], "is where --junit writes"),
        (["calibrate", "gan", "--calibration-data", "c.npz", "-o", "c.npz"], "is what --calibration-data reads"),
        (["calibrate", "gan", "-o", "c.npz", "--checkpoint", "c.npz"], "is where --output writes"),
        (["compare", "b", "x", "--image", "x"], "is where --image writes"),
        (["train", "lm", "--data", "texts", "-o", "texts"], "is what --data reads"),
    ],
)
def test_no_path_takes_the_place_of_another(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A report replaced the private key, was replaced by another, or made the bundle that it spoke of unreadable."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "key.pem").write_text("mine")
    assert run(arguments) == 2
    assert told in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"real", "link", "key.pem"}
    assert list((tmp_path / "real").iterdir()) == []
    assert (tmp_path / "key.pem").read_text() == "mine"


def test_what_does_not_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both to the same device, one reading what another reads, a name that only begins like the folder's."""
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["verify", "none", "--report", "/dev/null", "--junit", "/dev/null"],
        ["compare", "none", "none", "--eval-data", "none"],
        ["verify", "none", "--report", "none.json", "--junit", "./none.xml"],
    ):
        assert run(arguments) == 4, arguments


@pytest.mark.usefixtures("capture_once")
def test_a_report_on_standard_output_stands_there_alone(
    copies: Path, checkpoints: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    verify = ["verify", str(copies / "gan"), "--checkpoint", str(checkpoints / "gan"), "--quality-samples", "0"]
    assert run([*verify, "--report", "/dev/stdout"]) == 0
    found = capfd.readouterr()
    assert json.loads(found.out)["passed"] is True
    assert "limits" in found.err
    assert run([*verify, "--report", "/dev/stdout", "--json"]) == 2
    assert "both write to standard output" in capfd.readouterr().err
    compare = ["compare", *[str(copies / "gan")] * 2, "--quality-samples", "0", "--rounds", "1", "--runs", "1"]
    assert run([*compare, "--image", "/dev/stdout", "--json"]) == 2
    assert "both write to standard output" in capfd.readouterr().err
    assert run([*compare, "--image", "/dev/null"]) == 0
    Bundle.open(copies / "gan")
