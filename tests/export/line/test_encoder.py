"""A language model of `nn.TransformerEncoder` comes in by one command, and its bundle says what PyTorch says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.models.sources.encoder.textbook import CONFIG, Textbook

from aigc_export.cli import run
from aigc_runtime.opening import open_pipeline
from aigc_runtime.pipelines.text import TextPipeline


@pytest.mark.slow
def test_one_command(tmp_path: Path) -> None:
    module = Textbook(("encoder", "pos_encoder", "transformer_encoder", "decoder"))
    torch.save(module.state_dict(), tmp_path / "words.pt")
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "eos_token_id": 60}))
    out = str(tmp_path / "out")
    assert run(["export", str(tmp_path / "words.pt"), "-o", out, "--quality-samples", "0", "--threads", "1"]) == 0
    with open_pipeline(out) as pipeline:
        assert isinstance(pipeline, TextPipeline)
        assert pipeline.settings.eos_token_ids == (60,)
        results = pipeline.generate([[1, 2, 3], [7]], max_new_tokens=12)
    for prompt, result in zip(([1, 2, 3], [7]), results, strict=True):
        expected = module.greedy(prompt, 12)
        assert result.token_ids.tolist() == expected[: expected.index(60) + 1 if 60 in expected else 12]
