"""A search over a language model whose tokenizer is a file of its own, as that of every model of others is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aigc_export.line.exporter import export_model
from aigc_export.recipes.budget import parse_budget
from aigc_export.recipes.recipe import export_recipe
from aigc_export.recipes.search import SearchConfig
from aigc_models.program import Program
from aigc_models.programs import lm_program
from aigc_models.text_assets import TextAssets
from aigc_runtime.generation.tokenizers import TokenizerInfo

from ...runtime.generation.tokenizers.makers import byte_level
from ..conftest import tiny_lm


def program() -> Program:
    torch.manual_seed(0)
    tokenizer = TokenizerInfo(kind="huggingface", file="tokenizer.json")
    text = TextAssets(tokenizer=tokenizer, bos_token_id=1, files={"tokenizer.json": byte_level(bos=True)})
    return lm_program(tiny_lm(vocab_size=400), text=text)


@pytest.mark.slow
def test_candidates_are_judged_and_timed_with_the_programs_tokenizer(tmp_path: Path) -> None:
    search = SearchConfig(budgets=(parse_budget("ppl<=+10%"),), samples=4, objective="size")
    recipe = export_recipe(
        program(), precision="auto", search=search, quality_samples=4, calibration_samples=8, threads=1
    )  # fmt: skip
    result = export_model(recipe, tmp_path / "out")
    assert result.search is not None
    assert {one.precision for one in result.search.candidates} >= {"fp32", "int8-weight", "int4"}
    assert all(one.latency_ms > 0 for one in result.search.candidates)
    assert any(one.chosen and one.holds for one in result.search.candidates)
