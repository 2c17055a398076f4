"""Entries of tables come from installed packages too, and never replace the house's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aigc_runtime.core.plugins import look_up, plugin_names
from aigc_runtime.errors import ConfigError, UnknownNameError

GROUP = "toys.numbers"
TABLE = {"own": 1}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that is installed by its path, with good and bad entries."""
    (tmp_path / "brought_in.py").write_text("seven = 7\nword = 'seven'\nown = 2\n")
    (tmp_path / "broken_in.py").write_text("raise ValueError('no device')\n")
    info = tmp_path / "brought_in-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought-in\nVersion: 1.0\n")
    entries = ("seven = brought_in:seven", "word = brought_in:word", "own = brought_in:own", "broken = broken_in:x")
    (info / "entry_points.txt").write_text("\n".join((f"[{GROUP}]", *entries)) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("brought_in", None)


def found(name: str) -> int:
    return look_up(TABLE, name, what="number", group=GROUP, of=int)


def test_an_installed_package_brings_an_entry(package: Path) -> None:
    assert found("seven") == 7
    assert plugin_names(TABLE, group=GROUP) == ("own", "broken", "seven", "word")


def test_a_package_cannot_replace_an_entry_of_the_table(package: Path) -> None:
    assert found("own") == 1
    assert "brought_in" not in sys.modules


def test_a_name_that_nobody_has_lists_those_of_packages(package: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown number 'sevn'") as caught:
        found("sevn")
    assert "seven" in caught.value.hint


def test_an_entry_that_is_something_else_or_fails_is_named(package: Path) -> None:
    with pytest.raises(ConfigError, match="'word' of package 'brought-in' is str, not int"):
        found("word")
    with pytest.raises(ConfigError, match="'broken' of package 'brought-in' cannot be loaded: ValueError: no device"):
        found("broken")
