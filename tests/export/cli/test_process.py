"""The command's process: its threads spin for a short time, unless the user says otherwise, and it collects rarely."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from aigc_export import cli
from aigc_export.cli.process import COLLECTED_OBJECTS


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    """The collector's thresholds, put back after the test."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.fixture(autouse=True)
def no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """`main` prepares the process, and runs nothing."""
    monkeypatch.setattr(cli, "run_program", lambda run, arguments: 0)
    monkeypatch.setattr(cli, "end_program", lambda code: None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_spin_for_a_short_time(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    cli.main(["models"])
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_cycles_are_collected_rarely_but_collected() -> None:
    gc.set_threshold(700, 10, 10)
    cli.main(["models"])
    assert gc.get_threshold() == (COLLECTED_OBJECTS, 10, 10)
    assert gc.isenabled()
