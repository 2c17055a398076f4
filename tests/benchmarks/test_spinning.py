"""The benchmark of spins times every spin, alone and beside another process."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from ..runtime import toys


def test_every_spin_is_timed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "spinning.py"
    spec = importlib.util.spec_from_file_location("spinning", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "spinning", module)  # the second process imports it by name
    monkeypatch.setenv("PYTHONPATH", str(path.parent))
    spec.loader.exec_module(module)

    bundle = toys.write_toy_bundle(tmp_path, "toy_lm_growing")
    found = list(module.measured(bundle, [0, 20], 2, 1, runs=1))

    assert [spin for spin, _, _ in found] == [0, 20]
    assert all(alone > 0 < beside for _, alone, beside in found)
