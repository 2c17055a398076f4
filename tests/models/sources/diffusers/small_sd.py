"""Small pipelines from text to pictures, written by diffusers itself: every option as published, widths divided."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

diffusers: Any = pytest.importorskip("diffusers")
transformers: Any = pytest.importorskip("transformers")

LEVELS = 4
DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
BEGIN, END = "<|startoftext|>", "<|endoftext|>"

SD15_UNET: dict[str, Any] = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": (16, 32, 64, 64),  # published: 320, 640, 1280, 1280
    "center_input_sample": False,
    "cross_attention_dim": 24,  # published: 768
    "down_block_types": DOWN,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 8,  # published: 32
    "out_channels": 4,
    "sample_size": 16,  # published: 64
    "up_block_types": UP,
}
SD21_UNET: dict[str, Any] = {
    **SD15_UNET,
    "attention_head_dim": (2, 4, 8, 8),  # published: 5, 10, 20, 20
    "cross_attention_dim": 32,  # published: 1024
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 24,  # published: 96
    "upcast_attention": True,
    "use_linear_projection": True,
}
TURBO_UNET: dict[str, Any] = {
    **SD21_UNET,
    "addition_embed_type": None,
    "attention_type": "default",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "dropout": 0.0,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "resnet_out_scale_factor": 1.0,
    "resnet_time_scale_shift": "default",
    "sample_size": 16,  # published: 64
    "time_embedding_type": "positional",
    "transformer_layers_per_block": 1,
    "upcast_attention": None,
}
LCM_UNET: dict[str, Any] = {**SD15_UNET, "time_cond_proj_dim": 12}  # published: 256
INPAINT_UNET: dict[str, Any] = {**SD15_UNET, "in_channels": 9}

SD15_TEXT: dict[str, Any] = {
    "hidden_size": 24,  # published: 768
    "intermediate_size": 48,  # published: 3072
    "num_hidden_layers": 3,  # published: 12
    "num_attention_heads": 4,  # published: 12
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
    "projection_dim": 24,  # published: 768
}
SD21_TEXT: dict[str, Any] = {**SD15_TEXT, "hidden_size": 32, "hidden_act": "gelu", "projection_dim": 16}

VAE: dict[str, Any] = {
    "act_fn": "silu",
    "block_out_channels": (8, 16, 16, 16),  # published: 128, 256, 512, 512
    "down_block_types": ("DownEncoderBlock2D",) * LEVELS,
    "up_block_types": ("UpDecoderBlock2D",) * LEVELS,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 4,  # published: 32
    "sample_size": 128,  # published: 512
    "scaling_factor": 0.18215,
}

SCALED: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LEADING: dict[str, Any] = {**SCALED, "steps_offset": 1}

PIPELINES: dict[str, dict[str, Any]] = {
    "SD 1.5": {
        "scheduler": diffusers.PNDMScheduler(**LEADING, skip_prk_steps=True, set_alpha_to_one=False),
        "unet": SD15_UNET,
        "text": SD15_TEXT,
    },
    "SD 2.1": {
        "scheduler": diffusers.DDIMScheduler(
            **LEADING, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction"
        ),
        "unet": SD21_UNET,
        "text": SD21_TEXT,
        "pad": "!",
    },
    "SD Turbo": {
        "scheduler": diffusers.EulerDiscreteScheduler(**LEADING, timestep_spacing="trailing"),
        "unet": TURBO_UNET,
        "text": SD21_TEXT,
        "pad": "!",
    },
    "LCM": {
        "scheduler": diffusers.LCMScheduler(**LEADING),
        "unet": LCM_UNET,
        "text": SD15_TEXT,
        "kind": "LatentConsistencyModelPipeline",
    },
    "inpainting": {
        "scheduler": diffusers.DDIMScheduler(**LEADING, clip_sample=False, set_alpha_to_one=False),
        "unet": INPAINT_UNET,
        "text": SD15_TEXT,
        "kind": "StableDiffusionInpaintPipeline",
    },
}

TWO_LEVELS: dict[str, Any] = {
    "unet": {
        **SD15_UNET,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "layers_per_block": 1,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "vae": {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "layers_per_block": 1,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    },
    "text": {**SD15_TEXT, "num_hidden_layers": 2},
}
"""SD 1.5 with less of everything, where what is shown does not depend on how much there is."""


def byte_characters() -> list[str]:
    """The 256 characters that stand for bytes (Radford et al. 2019): those that print, then others from 256 on."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printing]
    return [chr(byte) for byte in printing] + [chr(256 + i) for i in range(len(others))]


MERGES = [
    *(
        "t h",
        "th e</w>",
        "i n",
        "e r",
        "a n",
        "an d</w>",
        "in g</w>",
        "o n",
        "l i",
        "h t</w>",
        "g ht</w>",
        "li ght</w>",
    ),
    *("h o", "ho u", "s e</w>", "hou se</w>", "d u", "s k</w>", "du sk</w>", "a t</w>", "1 2", "Ã ¤", "' s</w>"),
    *("u r</w>", "b l", "bl ur</w>", "! !</w>", "< |", "s t", "st a", "sta r", "star t"),
]


def clip_vocabulary() -> dict[str, int]:
    """A vocabulary as CLIP's: bytes, bytes that end a word, what merges make, and what begins and ends a text."""
    characters = byte_characters()
    made = ["".join(pair.split(" ")) for pair in MERGES]
    tokens = [*characters, *(f"{c}</w>" for c in characters), *made, BEGIN, END]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def write_tokenizer(folder: Path, *, pad: str = END, **changes: Any) -> None:
    """A tokenizer's folder as those of Stable Diffusion were published: without tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {"add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77}
    marks = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    config = {
        **named,
        "bos_token": {**marks, "content": BEGIN},
        "eos_token": {**marks, "content": END},
        "unk_token": {**marks, "content": END},
        "pad_token": pad,
        "tokenizer_class": "CLIPTokenizer",
        **changes,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    marks.pop("__type")
    special = {
        "bos_token": {**marks, "content": BEGIN},
        "eos_token": {**marks, "content": END},
        "pad_token": pad,
        "unk_token": {**marks, "content": END},
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "vocab.json").write_text(json.dumps(clip_vocabulary()))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]), encoding="utf-8")


def randomized(model: Any) -> Any:
    """Every tensor random, norms and biases too, so that none is mixed up."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def make_text_encoder(**fields: Any) -> Any:
    torch.manual_seed(0)
    size = len(clip_vocabulary())
    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # as published, whatever the tokenizer says
    return randomized(transformers.CLIPTextModel(transformers.CLIPTextConfig(vocab_size=size, **ends, **fields)))


def make_vae(**fields: Any) -> Any:
    torch.manual_seed(0)
    return randomized(diffusers.AutoencoderKL(**{**VAE, **fields}))


def make_tiny_vae(**fields: Any) -> Any:
    torch.manual_seed(0)
    channels = {"encoder_block_out_channels": (6,) * 4, "decoder_block_out_channels": (6,) * 4}  # published: 64
    return randomized(diffusers.AutoencoderTiny(**{**channels, **fields}))


def make_unet_condition(**fields: Any) -> Any:
    torch.manual_seed(0)
    return randomized(diffusers.UNet2DConditionModel(**fields))


def write_stable_diffusion(folder: Path, name: str = "SD 1.5", **options: Any) -> Any:
    """A pipeline, saved to a folder: returns diffusers' own."""
    given = {**PIPELINES[name], **options}
    write_tokenizer(folder / "tokenizer", pad=given.get("pad", END))
    pipeline = getattr(diffusers, given.get("kind", "StableDiffusionPipeline"))(
        vae=given.get("make_vae", make_vae)(**given.get("vae", {})),
        text_encoder=make_text_encoder(**given["text"]),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=make_unet_condition(**given["unet"]),
        scheduler=given["scheduler"],
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder, **given.get("save", {}))
    shutil.rmtree(folder / "tokenizer")
    write_tokenizer(folder / "tokenizer", pad=given.get("pad", END))
    return pipeline
