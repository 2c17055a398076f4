"""The benchmark of choices times every way on both sides."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("transformers")


def test_every_choice_is_timed_on_both_sides() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "sampling.py"
    spec = importlib.util.spec_from_file_location("sampling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {name: (ours, theirs) for name, ours, theirs in module.measured(2000, 1)}
    assert found.keys() == module.WAYS.keys()
    assert all(ours > 0 < theirs for ours, theirs in found.values())
