"""A language model in 8 bits gets an engine for prompts where that reads them faster, and one engine elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import aigc_export
from aigc_export.line import prompt_engine
from aigc_export.line.exporter import ExportResult, export_model
from aigc_export.parity.check import check_parity
from aigc_export.recipes.recipe import export_recipe
from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.program import Program
from aigc_models.programs import lm_program
from aigc_models.separate_prefill import with_separate_prefill
from aigc_runtime import open_pipeline, verify_bundle
from aigc_runtime.backends.ort import backend
from aigc_runtime.opening import open_program

pytestmark = pytest.mark.usefixtures("capture_once")
WIDTH = 96
FASTER, SLOWER, SMALL = [(16.0, 10.0)] * 5, [(160.0, 150.0)] * 5, [(12.0, 7.5)] * 5
"""Milliseconds of the engine for tokens, and of that for prompts."""


@pytest.fixture(scope="module")
def model() -> Program:
    torch.manual_seed(0)
    sizes = LMConfig(vocab_size=256, context_length=96, d_model=WIDTH, n_layers=1, n_heads=3, d_ff=2 * WIDTH)
    return lm_program(TransformerLM(sizes).eval())


def exported(
    model: Program, folder: Path, *, stages: list[tuple[str, str]] | None = None, **changes: Any
) -> ExportResult:
    recipe = export_recipe(
        model,
        precision="int8",
        calibration_samples=4,
        quality_samples=2,
        tolerance={"min_sqnr_db": 10, "min_token_agreement": 0.01, "max_quality_drop": 1.0},
        threads=1,
        allow_slower=True,
        **changes,
    )
    return export_model(recipe, folder, stage=None if stages is None else lambda *told: stages.append(told))


def timed(rounds: list[tuple[float, float]]) -> Callable[..., list[tuple[float, float]]]:
    """Both are called, as they are to be timed, and said to take so long."""

    def time_in_turn(first: Callable[[], object], second: Callable[[], object]) -> list[tuple[float, float]]:
        first()
        second()
        return rounds

    return time_in_turn


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor with instructions for products of bytes."""
    monkeypatch.setattr(backend, "products_saturate", lambda _: False)


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node}


def test_two_engines_where_prompts_gain(model: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_engine, "time_in_turn", timed(FASTER))
    stages = list[tuple[str, str]]()
    result = exported(model, tmp_path / "out", stages=stages)
    told = next(what for name, what in stages if name == "prompts")
    assert told.startswith(
        "48 tokens are read in 10 ms by an engine of their own, in 16 ms by that for tokens (1.60x; 5 rounds in turn; "
    )
    assert told.partition("): ")[2].startswith("two engines")
    manifest = result.bundle.manifest
    assert manifest.pipeline.engines == {"prefill": "prefill", "decode": "decode"}
    assert manifest.shared_files == ("shared.weights",)
    assert [manifest.engines[name].build.byte_products for name in ("prefill", "decode")] == [True, False]
    assert "QGemm" in operators(tmp_path / "out" / "prefill.onnx")
    assert "QGemm" not in operators(tmp_path / "out" / "decode.onnx")
    weights = sum(op.numel() for op in model.part.module.parameters())
    size = next(info.size for info in manifest.files if info.path == "shared.weights")
    assert size < 1.5 * weights  # a byte for each, once, and scales
    with open_program(result.bundle) as opened:
        assert verify_bundle(result.bundle, opened).passed
    # Against the program as its maker has it, of one part.
    found = aigc_export.verify(result.bundle, model=model, quality_samples=2, threads=1)
    assert found.report.passed, found.report.failures
    with open_pipeline(result.bundle, threads=1) as pipeline:
        (found,) = pipeline.generate("a" * 40, max_new_tokens=4)
        assert len(found.token_ids) == 4


@pytest.mark.parametrize(
    ("rounds", "refused"),
    [
        pytest.param(SLOWER, False, id="little gain"),
        pytest.param(SMALL, False, id="little time"),
        pytest.param(FASTER, True, id="not asked for"),
    ],
)
def test_one_engine_elsewhere(
    rounds: list[tuple[float, float]],
    refused: bool,
    model: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prompt_engine, "time_in_turn", timed(rounds))
    given = replace(model, options={"separate_prefill": False}) if refused else model
    stages = list[tuple[str, str]]()
    result = exported(given, tmp_path / "out", stages=stages)
    assert list(result.bundle.manifest.engines) == ["model"]
    assert result.bundle.manifest.origin is not None
    assert ("--no-separate-prefill" in result.bundle.manifest.origin.options) == refused
    assert ["): one engine" in what for name, what in stages if name == "prompts"] == [True] * (not refused)
    # Its weights have the blocks that they would have had, had nothing been tried.
    plan = (result.bundle.path / "plan.json").read_text()
    assert "one scale for" not in plan


def test_a_processor_whose_products_saturate_tries_nothing(
    model: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "products_saturate", lambda _: True)
    monkeypatch.setattr(prompt_engine, "time_in_turn", timed(FASTER))
    stages = list[tuple[str, str]]()
    assert list(exported(model, tmp_path / "out", stages=stages).bundle.manifest.engines) == ["model"]
    assert "prompts" not in [name for name, _ in stages]


def test_two_engines_that_miss_a_limit_become_one(
    model: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_engine, "time_in_turn", timed(FASTER))
    missed = replace_report(monkeypatch)
    stages = list[tuple[str, str]]()
    result = exported(model, tmp_path / "out", stages=stages)
    assert missed == ["prefill", "decode"]
    assert list(result.bundle.manifest.engines) == ["model"]
    told = [what for name, what in stages if name == "prompts"]
    assert told[1].startswith("two engines miss a limit, so that there is one: ")
    assert "one scale for" not in (result.bundle.path / "plan.json").read_text()


def replace_report(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let two engines miss a limit that one keeps; the list gets their names."""
    missed = list[str]()

    def checked(candidate: Any, program: Program, **given: Any) -> Any:
        if len(program.parts) > 1:
            missed.extend(program.parts)
            given["tolerances"] = replace(
                given["tolerances"], tensor=replace(given["tolerances"].tensor, min_sqnr_db=400.0)
            )
        return check_parity(candidate, program, **given)

    monkeypatch.setattr("aigc_export.line.attempt.check_parity", checked)
    return missed


def test_both_engines_that_were_asked_for_are_captured_and_quantized_once(
    model: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_engine, "time_in_turn", timed(SLOWER))  # which is not asked
    stages = list[tuple[str, str]]()
    result = exported(with_separate_prefill(model), tmp_path / "out", stages=stages)
    assert list(result.bundle.manifest.engines) == ["prefill", "decode"]
    names = [name for name, _ in stages]
    assert (names.count("capture"), names.count("quantize"), names.count("prompts")) == (1, 1, 0)
    assert "QGemm" in operators(tmp_path / "out" / "prefill.onnx")


def test_fp32_has_one_engine(model: Program, tmp_path: Path) -> None:
    recipe = export_recipe(model, quality_samples=0, threads=1)
    assert list(export_model(recipe, tmp_path / "out").bundle.manifest.engines) == ["model"]
