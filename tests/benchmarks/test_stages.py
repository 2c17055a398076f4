"""The table of stages says how long each took, and how much memory."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


def test_a_line_for_every_stage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    stages = importlib.import_module("stages").Stages()
    stages("load", "a model")
    held = bytearray(b"1" * 2**27)
    stages("capture", "a graph")
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["load", "capture"]
    assert shown[1].endswith("a graph")
    (_, *first), (_, seconds, _, peak) = stages.lines
    assert len(held) <= peak
    assert seconds >= 0
    assert first[2] > 0
