"""The benchmark of spins times every spin, alone and beside another process."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from ..runtime import toys


def test_every_spin_is_timed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")  # where the second process looks, too
    module = importlib.import_module("spinning")

    bundle = toys.write_toy_bundle(tmp_path, "toy_lm_growing")
    found = list(module.measured(bundle, [0, 20], 2, 1, runs=1))

    assert [spin for spin, _, _ in found] == [0, 20]
    assert all(alone > 0 < beside for _, alone, beside in found)
