"""A bundle of a GGUF file and an adapter says what it was made of, and is verified against the same again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.models.sources.diffusers.small_sd import TWO_LEVELS, write_stable_diffusion
from tests.models.sources.gguf.small_files import write_model
from tests.models.sources.lora.test_adapter import CONFIG, write
from tests.models.sources.transformers.small_models import small_model

from aigc_export.cli import run
from aigc_export.line.origin import load_original
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.errors import CheckpointError

MODULE = "base_model.model.model.layers.0.mlp.up_proj"
TENSORS = {f"{MODULE}.lora_A.weight": torch.ones(2, 48), f"{MODULE}.lora_B.weight": torch.ones(80, 2)}


@pytest.mark.slow
def test_a_bundle_is_verified_against_what_it_was_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "small.gguf", small_model("llama"), kind="llama")
    write(tmp_path / "tuned", {**CONFIG, "target_modules": ["up_proj"]}, TENSORS)
    few = ["--quality-samples", "0"]
    command = ["export", "small.gguf", "--lora", "tuned:0.5", "--context-length", "64", "-o", "bundle", *few]
    assert run(command) == 0, capsys.readouterr()
    bundle = Bundle.open(tmp_path / "bundle")
    origin = bundle.manifest.origin
    assert origin is not None
    assert origin.checkpoint == "small.gguf"
    assert origin.given("--lora") == ("tuned:0.5",)
    assert "--lora tuned:0.5" in origin.arguments(same_precision=True)
    assert len(bundle.manifest.provenance["adapters_sha256"]) == 64
    assert run(["verify", "bundle", *few]) == 0, capsys.readouterr()

    config = json.loads((tmp_path / "tuned" / "adapter_config.json").read_text())
    (tmp_path / "tuned" / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 5}))
    with pytest.raises(CheckpointError, match="is not the one that the bundle was made from"):
        load_original(bundle)
    (tmp_path / "tuned").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="no adapter at 'tuned'"):
        load_original(bundle)


def test_a_pipeline_with_a_textual_inversion_and_a_part_of_an_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_stable_diffusion(tmp_path / "sd", **TWO_LEVELS)
    save_file({"emb_params": torch.ones(2, 24)}, tmp_path / "cat.safetensors")
    pair = {"unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3), "unet.conv_in.lora_B.weight": torch.ones(16, 2, 1, 1)}
    save_file({**pair, "unet.other.hada_w1_a": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    asked = ["export", "sd", "--embedding", "cat.safetensors:<cat>", "--lora", "a.safetensors:0.1", "-o", "bundle"]
    asked += ["--quality-samples", "0"]
    assert run(asked) == 3
    told = capsys.readouterr().err
    assert "tensors that are not supported: 'unet.other.hada_w1_a'" in told
    assert "--lora-partial" in told
    assert not (tmp_path / "bundle").exists()
    assert run([*asked, "--lora-partial"]) == 0, capsys.readouterr()
    bundle = Bundle.open(tmp_path / "bundle")
    origin = bundle.manifest.origin
    assert origin is not None
    assert origin.given("--embedding") == ("cat.safetensors:<cat>",)
    assert origin.has("--lora-partial")
    assert "--embedding 'cat.safetensors:<cat>'" in origin.arguments(same_precision=True)
    assert load_original(bundle).weights_sha256 == bundle.manifest.provenance["checkpoint_sha256"]
    save_file({"emb_params": torch.zeros(2, 24)}, tmp_path / "cat.safetensors")
    with pytest.raises(CheckpointError, match="is not the one that the bundle was made from"):
        load_original(bundle)
