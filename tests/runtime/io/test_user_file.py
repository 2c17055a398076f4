"""Paths that name nothing: empty ones, and those that the system will not even look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from aigc_runtime.bundle.trusted_keys import read_trusted_keys
from aigc_runtime.cli.main import run
from aigc_runtime.errors import ConfigError
from aigc_runtime.io.user_file import is_folder, path_exists

LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", ""],
        ["doctor", ""],
        ["info", "B", "--trusted-key", ""],
        ["generate", "B", "--prompt-file", ""],
        ["generate", "B", "-o", ""],
        ["generate", "B", "-o", "x.png", "--embeddings", ""],
    ],
)
def test_an_empty_path_is_refused(arguments: list[str], toy_bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And is not the folder that the program runs in: whose keys would then be trusted."""
    given = [str(toy_bundles / "toy_gan") if a == "B" else a for a in arguments]
    assert run(given) == 2
    assert "a path is expected, and this one is empty" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="a trusted key has an empty path"):
        read_trusted_keys(["", "key.pem"])


def test_a_name_that_is_too_long_is_no_internal_error(
    toy_bundles: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cryptography")
    bundle = str(toy_bundles / "toy_gan")
    assert run(["info", bundle, "--trusted-key", LONG]) == 2
    monkeypatch.setenv("AIGC_TRUSTED_KEYS", LONG)
    assert run(["info", bundle]) == 2
    told = capsys.readouterr().err
    assert told.count("File name too long") == 2
    assert "internal error" not in told


def test_what_nobody_can_look_at_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / LONG, tmp_path / "file" / "x", tmp_path / "none"):
        assert not is_folder(path)
        assert not path_exists(path)
    assert is_folder(tmp_path)
    assert path_exists(tmp_path / "file")
