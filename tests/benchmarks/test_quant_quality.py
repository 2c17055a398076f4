"""Rows of the quantization benchmark: what is measured, what is not measured twice, and the table that comes of it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import quant_quality
import quantization
from quant_baselines import nncf_version
from quant_quality import Asked, missing_rows
from quant_rows import Row, append_row, best_how, quality_table, read_rows

ASKED = Asked(subjects=("vae",), seeds=2, judged=8, threads=1)
ROW = Row(subject="vae", precision="int8", tool="ours", how="defaults", seed=0, measure="psnr_db", value=40.0)
RIVAL = replace(ROW, tool="ONNX Runtime", how="MinMax")


class Judged:
    """In place of a subject: a graph is the text of its own value."""

    name, measure = "vae", "psnr_db"

    def proto_bytes(self) -> bytes:
        return b"x" * 100

    def open(self, model: bytes, *, threads: int | None) -> Judged:
        assert threads == 1
        self.model = model
        return self

    def close(self) -> None:
        pass

    def judge(self, session: Judged, *, seed: int, samples: int) -> tuple[float, float]:
        return float(session.model) + seed, 0.1


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was quantized, in order: configuration and seed."""
    calls: list[tuple[str, int]] = []

    def tools(_asked: Asked) -> dict[str, Callable[[Any, str, int], Mapping[str, Callable[[], bytes]]]]:
        def variants(values: Mapping[str, str]) -> Callable[[Any, str, int], Mapping[str, Callable[[], bytes]]]:
            def of(_subject: Any, _precision: str, seed: int) -> Mapping[str, Callable[[], bytes]]:
                def make(how: str) -> bytes:
                    calls.append((how, seed))
                    if values[how] == "fails":
                        raise RuntimeError("no kernel\nfor this")
                    return values[how].encode()

                return {how: (lambda how=how: make(how)) for how in values}  # type: ignore[misc]

            return of

        return {
            "ours": variants({"defaults": "40", "min-max": "38"}),
            "other": variants({"good": "41", "bad": "20", "broken": "fails", "large": "1" * 96}),
        }

    monkeypatch.setattr(quant_quality, "tools_of", tools)
    monkeypatch.setattr(quant_quality, "load_subject", lambda _name: Judged())
    return calls


def test_of_another_tool_the_best_of_the_first_seed_goes_on(made: list[tuple[str, int]], tmp_path: Path) -> None:
    rows = list(missing_rows(ASKED, (), tmp_path / "rows.jsonl"))
    assert made == [
        *(("defaults", 0), ("min-max", 0), ("good", 0), ("bad", 0), ("broken", 0), ("large", 0)),
        *(("defaults", 1), ("min-max", 1), ("good", 1)),
    ]
    assert read_rows(tmp_path / "rows.jsonl") == rows
    by_how = {row.how: row for row in rows if row.seed == 0}
    assert by_how["broken"].failed == "RuntimeError: no kernel for this"
    assert by_how["large"].failed == "quantizes nothing here"
    assert by_how["broken"].value is by_how["large"].value is None


def test_a_stopped_run_goes_on(made: list[tuple[str, int]], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    list(itertools.islice(missing_rows(ASKED, (), file), 4))
    before = list(made)
    list(missing_rows(ASKED, read_rows(file), file))
    assert made[: len(before)] == before
    assert len(made) == len(set(made)) == len(read_rows(file)) == 9
    assert list(missing_rows(ASKED, read_rows(file), file)) == []


def test_configurations_can_be_named(made: list[tuple[str, int]]) -> None:
    list(missing_rows(replace(ASKED, hows=("min-max", "bad")), (), None))
    assert made == [("min-max", 0), ("bad", 0), ("min-max", 1), ("bad", 1)]


def test_a_line_that_is_no_row_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    append_row(file, ROW)
    assert read_rows(file) == [ROW]
    with file.open("a") as out:
        out.write('{"subject": "vae"\n')
    with pytest.raises(ValueError, match=r"line 2 of .*rows\.jsonl is no row"):
        read_rows(file)
    file.write_text('{"network": "srvgg"}\n')
    with pytest.raises(ValueError, match="line 1"):
        read_rows(file)


def test_the_best_is_the_least_perplexity_or_the_most_decibels() -> None:
    rows = [RIVAL, replace(RIVAL, how="Entropy", value=41.0), replace(RIVAL, how="none", value=None)]
    assert best_how(rows, "vae", "int8", "ONNX Runtime") == "Entropy"
    text = [replace(row, measure="ppl_increase") for row in rows]
    assert best_how(text, "vae", "int8", "ONNX Runtime") == "MinMax"
    assert best_how(rows, "vae", "int8", "NNCF") is None


def shown(rows: list[Row]) -> str:
    console = Console(width=200, record=True, quiet=False, file=None, stderr=True)
    with console.capture() as capture:
        console.print(quality_table(rows, held_out=("vae",)))
    return " ".join(capture.get().split())


def test_the_table_says_where_ours_is_behind() -> None:
    rows = [ROW, replace(ROW, seed=1, value=44.0), replace(RIVAL, value=45.0), replace(ROW, how="min-max", value=41.0)]
    told = shown(rows)
    assert "vae (held out)" in told
    assert "42.0 dB ± 2.0 dB" in told
    assert "BEHIND by 3.0 dB" in told
    assert "ahead by 1.0 dB" in told
    assert "BEHIND" not in shown([ROW, replace(RIVAL, value=39.0)])


def test_the_table_says_where_ours_failed() -> None:
    assert "FAILED: PlanError" in shown([replace(ROW, value=None, failed="PlanError: no"), RIVAL])


def test_an_interpreter_without_nncf_has_no_version(tmp_path: Path) -> None:
    assert nncf_version(str(tmp_path / "python")) is None
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexit 0\n")
    silent.chmod(0o755)
    assert nncf_version(str(silent)) is None


def test_without_nncf_its_rows_are_left_out_and_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = quantization.asked_for(quantization.parsed(["--nncf", str(tmp_path / "none"), "--subject", "vae"]))
    assert asked.nncf is None
    assert "NNCF" not in quant_quality.tools_of(asked)
    assert "rows of NNCF are left out" in capsys.readouterr().err


def test_an_unknown_subject_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quantization.parsed(["--subject", "none"])
    assert "invalid choice" in capsys.readouterr().err
