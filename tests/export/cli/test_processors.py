"""The command lets PyTorch's threads wait without spinning for long, unless the user says how they wait."""

from __future__ import annotations

import os

import pytest

from aigc_export import cli


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
    monkeypatch.setattr(cli, "run_program", lambda run, arguments: 0)
    monkeypatch.setattr(cli, "end_program", lambda code: None)
    cli.main(["models"])
    assert os.environ.get("GOMP_SPINCOUNT") == expected
