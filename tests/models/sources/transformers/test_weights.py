"""Folders that transformers writes, in every form, hold the model that transformers reads from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.sources.transformers.small_models import (
    SMALL,
    VOCABULARY,
    config_json,
    pair_of,
    small_model,
    token_ids,
    weights_of,
)

from aigc_models.families.lm import TransformerLM
from aigc_models.sources.transformers.weights import load_model
from aigc_models.weights.stored_weights import StoredWeights
from aigc_models.weights.weights_file import find_weights
from aigc_runtime.errors import AigcError, CheckpointError

transformers: Any = pytest.importorskip("transformers")

ACCURACY = 1e-5


def loaded(folder: Path) -> tuple[TransformerLM, tuple[str, ...]]:
    config = json.loads((folder / "config.json").read_text())
    return load_model(config, StoredWeights(find_weights(folder).weights), source=str(folder))


@torch.no_grad()
def check_folder(folder: Path) -> tuple[str, ...]:
    """Our reading of a folder against transformers' in float32."""
    ours, notes = loaded(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = theirs(token_ids()).logits
    assert float((ours(token_ids()).logits - expected).abs().max()) < ACCURACY * float(expected.abs().max())
    return notes


def saved(folder: Path, family: str = "llama", dtype: torch.dtype | None = None, **change: Any) -> Path:
    model = small_model(family, **change)
    (model if dtype is None else model.to(dtype)).save_pretrained(folder)
    return folder


def edit(folder: Path, **tensors: torch.Tensor | None) -> Path:
    """Add tensors to the file of a folder, or take them away; two underscores stand for a dot."""
    path = folder / "model.safetensors"
    found = load_file(path)
    for name, tensor in tensors.items():
        key = name.replace("__", ".")
        if tensor is None:
            del found[key]
        else:
            found[key] = tensor
    save_file(found, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("family", list(SMALL))
def test_a_folder_of_every_family(family: str, tmp_path: Path) -> None:
    assert check_folder(saved(tmp_path, family)) == ()


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "phi3", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_numbers_of_16_bits_are_those_that_transformers_reads(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    (note,) = check_folder(saved(tmp_path, family, dtype))
    assert f"tensors of {str(dtype).removeprefix('torch.')} became float32, every number as it was" in note


def test_shards(tmp_path: Path) -> None:
    small_model("phi3").save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    check_folder(tmp_path)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_model_without_its_head_is_whole_where_the_head_is_the_embedding(family: str, tmp_path: Path) -> None:
    model = small_model(family, tie_word_embeddings=True)
    model.base_model.save_pretrained(tmp_path)
    assert all(not name.startswith(("model.", "transformer.")) for name in load_file(tmp_path / "model.safetensors"))
    check_folder(tmp_path)


def test_a_model_without_its_head_lacks_it_otherwise(tmp_path: Path) -> None:
    small_model("llama", tie_word_embeddings=False).base_model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"lacks tensor 'lm_head.weight'[^\n]*\n[^\n]*tie_word_embeddings"):
        loaded(tmp_path)


def test_a_head_beside_the_embedding_that_it_is(tmp_path: Path) -> None:
    folder = saved(tmp_path, tie_word_embeddings=True)
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    check_folder(edit(folder, lm_head__weight=embedding.clone()))
    edit(folder, lm_head__weight=embedding + 1)
    with pytest.raises(CheckpointError, match=r"the model ties .*, but the file holds two different tensors"):
        loaded(folder)


OLD = {
    "llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": 4, "model.layers.1.self_attn.rotary_emb.inv_freq": 4},
    "mistral": {"model.layers.1.self_attn.rotary_emb.inv_freq": 4},
    "gpt2": {"transformer.h.0.attn.bias": 9, "transformer.h.1.attn.masked_bias": 1},
    "gpt_neox": {
        "gpt_neox.layers.0.attention.bias": 9,
        "gpt_neox.layers.1.attention.masked_bias": 1,
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": 1,
    },
}
"""Tensors of older files that are computed today."""


@pytest.mark.parametrize("family", OLD)
def test_tables_of_older_files_are_left_out(family: str, tmp_path: Path) -> None:
    edit(saved(tmp_path, family), **{name: torch.ones(size) for name, size in OLD[family].items()})
    check_folder(tmp_path)


def test_a_padded_vocabulary_is_that_of_config_json(tmp_path: Path) -> None:
    ours, _ = loaded(saved(tmp_path, vocab_size=VOCABULARY + 31))
    assert ours.config.vocab_size == VOCABULARY + 31
    check_folder(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lm_head__bias": torch.zeros(VOCABULARY)}, "has a tensor 'lm_head.bias' that the model does not have"),
        ({"model__layers__2__mlp__up_proj__weight": torch.zeros(80, 48)}, "has a tensor 'layers.2.mlp.up_proj.weight'"),
        ({"model__layers__1__mlp__up_proj__weight": None}, "lacks tensor 'layers.1.mlp.up_proj.weight'"),
        ({"model__norm__weight": torch.zeros(47)}, r"tensor 'norm.weight' has shape \[47\], expected \[48\]"),
        ({"model__norm__weight": torch.zeros(48, dtype=torch.int8)}, "tensor 'norm.weight' is of int8"),
        ({"model__norm__weight": torch.full((48,), torch.nan)}, "tensor 'norm.weight' holds 48 values that are NaN"),
        ({"norm__weight": torch.zeros(48)}, "and another tensor that is 'norm.weight' here, too"),
    ],
)
def test_weights_that_do_not_belong_are_named(
    tensors: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        loaded(edit(saved(tmp_path), **tensors))


def test_fused_weights_of_another_size_are_named() -> None:
    theirs = pair_of("phi3").theirs
    with pytest.raises(CheckpointError, match=r"'model.layers.0.self_attn.qkv_proj.weight' .* cannot be cut into"):
        load_model({**config_json(theirs), "num_key_value_heads": 3}, weights_of(theirs), source="memory")


def test_more_than_fits_into_memory_is_refused_before_it_is_read(monkeypatch: Any) -> None:
    theirs = pair_of("llama").theirs
    monkeypatch.setattr("aigc_models.weights.before_memory.available_memory", lambda: 1000)
    with pytest.raises(AigcError, match="GiB of memory for its weights"):
        load_model(config_json(theirs), weights_of(theirs), source="memory")
