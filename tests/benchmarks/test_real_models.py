"""The table of real models: the command that it runs, and what it reads from manifests and timings."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("real_models")


def test_the_command_is_the_users(table: ModuleType) -> None:
    words = table.export_command(Path("a/model"), "int4:rtn", Path("out"))
    assert words == ["export", "a/model", "--precision", "int4", "-o", "out", "--weight-method", "rtn"]
    assert table.export_command(Path("m"), "int8", Path("out"))[2:4] == ["--precision", "int8"]
    assert table.export_command(Path("m"), "fp16", Path("out"), target="ort-cuda")[-2:] == ["--target", "ort-cuda"]


def test_quality_is_that_of_the_manifest(table: ModuleType) -> None:
    paired = [
        {"name": "ppl_increase", "value": 0.0523, "standard_error": 0.004},
        {"name": "kl_divergence", "value": 0.0512, "standard_error": 0.0021},
    ]
    manifest = {
        "quality": [{"metric": "perplexity", "reference": 8.4767, "bundle": 8.9181}],
        "measured": {"paired": paired},
    }
    assert table.quality(manifest) == {
        "perplexity": "8.477 → 8.918",
        "increase": "5.2% ± 0.4",
        "divergence": "0.051 ± 0.002",
    }
    assert table.quality({"quality": [], "measured": {"paired": []}}) == {}


def test_memory_and_results_are_the_childs(table: ModuleType) -> None:
    done, peak = table.run("json.tool", "--help")
    assert done.returncode == 0
    assert "usage" in done.stdout
    assert 2**20 < peak < 2**31
    failed, _ = table.run("json.tool", "/no/such/file")
    assert failed.returncode != 0
    assert failed.stderr


@pytest.mark.slow
def test_a_refusal_is_a_row_with_its_reason(table: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    row = table.measure(tmp_path / "empty", "fp32", tmp_path / "out")
    assert row["answer"].startswith("refused: error: ")
    shown = table.markdown([{"model": "a|b", "answer": "Paris"}, row]).splitlines()
    assert shown[0] == "| model | precision | seconds | peak GB | answer |"
    assert shown[2] == r"| a\|b |  |  |  | Paris |"
