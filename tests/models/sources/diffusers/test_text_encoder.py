"""config.json of a CLIPTextModel, with or without a projection: every field is read, or refused by its name."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from aigc_models.families.clip_text import ClipText
from aigc_models.sources.diffusers.text_encoder import clip_tensor, is_clip_text, read_clip_text
from aigc_runtime.errors import AigcError

from .small_sd import transformers

# As published: openai/clip-vit-large-patch14's text model, and the 23 layers of OpenCLIP's ViT-H that are kept.
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "SD 1.5": (
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        123_060_480,
    ),
    "SD 2.1": (
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
        | {"hidden_act": "gelu", "projection_dim": 512},
        340_387_840,
    ),
    # OpenCLIP's ViT-bigG, with its projection.
    "SD XL": (
        {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
        | {"hidden_act": "gelu", "projection_dim": 1280, "architectures": ["CLIPTextModelWithProjection"]},
        694_659_840,
    ),
}
OLD = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}
"""As Stable Diffusion 1.5 has it."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_number_of_parameters(name: str) -> None:
    fields, expected = PUBLISHED[name]
    kind = fields.get("architectures", ["CLIPTextModel"])
    with torch.device("meta"):
        theirs = getattr(transformers, kind[0])(transformers.CLIPTextConfig(**fields))
        written = {**json.loads(theirs.config.to_json_string()), "architectures": kind}
        model = ClipText(read_clip_text(written))
    assert sum(p.numel() for p in model.parameters()) == expected == theirs.num_parameters()


def test_a_file_of_an_old_version() -> None:
    config = read_clip_text(OLD)
    assert (config.hidden_size, config.hidden_act, config.vocab_size) == (768, "quick_gelu", 49408)
    assert is_clip_text(OLD)
    assert not is_clip_text({"model_type": "llama"})
    assert not is_clip_text(None)


def test_a_projection() -> None:
    projected = {**OLD, "architectures": ["CLIPTextModelWithProjection"]}
    assert read_clip_text(OLD).projection_dim is None
    assert (read_clip_text(projected).projection_dim, read_clip_text(projected).eos_token_id) == (768, None)
    assert read_clip_text({**projected, "eos_token_id": 49407}).eos_token_id == 49407
    assert read_clip_text({**OLD, "eos_token_id": 49407}).eos_token_id is None


def test_names_of_tensors() -> None:
    assert clip_tensor("text_model.encoder.layers.0.mlp.fc1.bias") == "encoder.layers.0.mlp.fc1.bias"
    assert clip_tensor("encoder.layers.0.mlp.fc1.bias") == "encoder.layers.0.mlp.fc1.bias"
    assert clip_tensor("text_model.embeddings.position_ids") is None
    assert clip_tensor("text_projection.weight") == "text_projection.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["CLIPModel"]}, "supported: 'clip_text_model' of class CLIPTextModel or CLIPText"),
        ({"architectures": ["CLIPTextModelWithProjection"], "projection_dim": 0}, "projection_dim is 0"),
        ({"model_type": "clip"}, "model_type is 'clip'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"num_attention_heads": 7}, "num_attention_heads is 7"),
        ({"use_attention_mask": True}, "use_attention_mask is True, which is not supported"),
        ({"rope_theta": 1e4}, "the field 'rope_theta' is 10000.0, and what it means is not known here"),
    ],
)
def test_what_is_not_done_is_refused_by_its_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AigcError, match=message):
        read_clip_text({**OLD, **change})
