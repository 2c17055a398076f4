from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("peers")


def result(name: str, token_ms: float) -> dict[str, object]:
    times = {"prompt_ms": 100.0, "token_ms": token_ms, "token_p90_ms": 3.0, "token_p99_ms": 4.0}
    judgment = {"perplexity": 2.0, "increase": [0.01, 0.002], "divergence": [0.1, 0.0], "agreement": [0.9, 0.0]}
    sizes = {"size_bytes": 5_000_000, "peak_bytes": None, "cold_s": 0.5}
    return {"name": name, "version": "1.0", **times, **sizes, "judgment": judgment}


@pytest.mark.any_python
def test_a_table_is_made_of_a_document(peers: ModuleType) -> None:
    failed = {"name": "llama:gguf", "version": "", "failed": "not installed"}
    unjudged = {key: value for key, value in result("torch:fp32", 8.0).items() if key != "judgment"}
    text = peers.markdown({"results": [result("this bundle", 2.0), failed, unjudged]})
    heading, _, ours, torch, _, why = text.splitlines()
    assert heading.count("|") == ours.count("|") == torch.count("|") == len(peers.HEADINGS) + 1
    assert ours == "| this bundle 1.0 | 100 | 2.0 | 3.0 | 4.0 | 1.00x | 5 |  | 0.50 | +1.00 ± 0.20 % | 90.0 % |"
    assert "| 0.25x |" in torch
    assert why == "llama:gguf: not installed"
