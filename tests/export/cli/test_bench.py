"""`aigc-export bench` on a model of others, whose tokenizer is a file of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aigc_export.cli import run
from aigc_export.line.exporter import export_model
from aigc_export.recipes.recipe import export_recipe

from ...models.sources.transformers.small_models import small_model
from ...models.text_assets.folders import write_folder
from ...runtime.generation.tokenizers.makers import byte_level


@pytest.mark.slow
def test_a_model_with_a_tokenizer_is_timed_beside_pytorch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_model("llama", vocab_size=400).save_pretrained(tmp_path / "llama")
    write_folder(tmp_path / "llama", byte_level(bos=True))
    export_model(export_recipe(str(tmp_path / "llama"), quality_samples=0, threads=1), tmp_path / "out")
    assert run(["bench", str(tmp_path / "out"), "--rounds", "1", "--runs", "2", "--threads", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    weights = (tmp_path / "out" / "model.onnx").stat().st_size
    assert 0 < told["limits"]["weight_bytes"] < weights
    assert told["limits"]["flops"] > 0
