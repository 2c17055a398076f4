"""A model with a tokenizer and a chat template, from its folder to a verified bundle; what differs is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc_export.line.exporter import export_model
from aigc_export.line.text_vectors import record_vectors
from aigc_export.parity.report import junit_xml, parity_table
from aigc_export.prepare.prepare import Reporter
from aigc_export.recipes.recipe import export_recipe
from aigc_export.tools.verifier import verify_against_torch
from aigc_models.program import Program
from aigc_models.programs import lm_program
from aigc_models.text_assets import TextDiffersError, read_text_assets
from aigc_runtime.opening import open_pipeline

from ...models.text_assets.folders import CHATML, write_folder
from ...runtime.generation.tokenizers.makers import byte_level
from ..conftest import tiny_lm


@pytest.fixture
def program(tmp_path: Path) -> Program:
    settings = {"chat_template": CHATML, "eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    folder = write_folder(
        tmp_path / "folder",
        byte_level(),
        config={"model_type": "llama"},
        tokenizer_config=settings,
        generation_config={"stop_strings": "###"},
    )
    text = read_text_assets(folder, {"model_type": "llama"}, vocab_size=410)
    return lm_program(tiny_lm(vocab_size=410), text=text)


@pytest.mark.slow
def test_tokens_and_chats_are_part_of_the_proof(program: Program, tmp_path: Path) -> None:
    recipe = export_recipe(program, quality_samples=8)
    stages: list[tuple[str, str]] = []
    result = export_model(recipe, tmp_path / "out", stage=lambda name, what: stages.append((name, what)))
    assert any(name == "tokens" and "recorded by transformers 5." in what for name, what in stages)
    manifest = result.bundle.manifest
    assert manifest.assets == ("chat_template.jinja", "tokenizer.json")
    assert manifest.reference.text == "ref.text.json"
    assert manifest.pipeline.settings.stop == ("###",)
    assert manifest.reference.generation.request["stop"] == []
    assert manifest.provenance["text_recorded_by"].startswith("transformers 5.")
    assert result.report.text is not None
    assert result.report.text.passed
    assert b'name="tokens"' in junit_xml(result.report, seconds=1.0)
    assert parity_table(result.report).row_count > 3
    found = verify_against_torch(result.bundle, model=program, quality_samples=0)
    assert found.report.text == result.report.text
    with open_pipeline(result.bundle) as pipeline:
        prompt = pipeline.tokenizer.encode("<|im_start|>user\nHi<|im_end|>\n", add_special_tokens=False)
        assert prompt.tolist()[0] == 1
        assert len(pipeline.generate(prompt, max_new_tokens=3)[0].token_ids) <= 3


def test_a_reading_that_differs_is_refused_before_any_work(program: Program) -> None:
    reported: list[tuple[str, str]] = []
    assert program.vectors is not None
    vectors = record_vectors(program, Reporter(lambda name, what: reported.append((name, what))))
    assert vectors is not None
    assert json.loads(vectors.data)["texts"]
    assert [name for name, _ in reported] == ["tokens"]

    def differs() -> Any:
        raise TextDiffersError("the tokenizer is not read as transformers reads it: text 'a'")

    make: Callable[[], Any] = differs
    recipe = export_recipe(replace(program, vectors=make))
    with pytest.raises(TextDiffersError, match="text 'a'"):
        export_model(recipe, "never")
    assert not Path("never").exists()


def test_a_program_without_text_records_nothing() -> None:
    assert record_vectors(lm_program(tiny_lm()), Reporter(None)) is None
