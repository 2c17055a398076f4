"""The benchmark of first tokens exports once for every share, and prints what each costs."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aigc_export.line import exporter
from aigc_export.workloads.samples import text


@pytest.fixture(autouse=True)
def put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the benchmark sets for its process."""
    thresholds = gc.get_threshold()
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    monkeypatch.setattr(text, "FIRST_TOKEN_SHARE", text.FIRST_TOKEN_SHARE)
    yield
    gc.set_threshold(*thresholds)


def test_a_line_for_every_share(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shares = []

    def export(recipe: Any, folder: Any) -> SimpleNamespace:
        shares.append(text.FIRST_TOKEN_SHARE)
        metrics = [
            SimpleNamespace(name=name, value=0.1 * text.FIRST_TOKEN_SHARE, standard_error=0.01)
            for name in ("ppl_increase", "kl_divergence")
        ]
        return SimpleNamespace(report=SimpleNamespace(paired=[SimpleNamespace(metric=one) for one in metrics]))

    monkeypatch.setattr(exporter, "export_model", export)
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    monkeypatch.setattr(sys, "argv", ["first_tokens.py", "lm", "--shares", "1", "4"])
    importlib.import_module("first_tokens").main()
    assert shares == [1.0, 4.0]
    assert capsys.readouterr().out.splitlines() == [
        "share 1: ppl_increase 0.1000 ± 0.0100 kl_divergence 0.1000 ± 0.0100",
        "share 4: ppl_increase 0.4000 ± 0.0100 kl_divergence 0.4000 ± 0.0100",
    ]
