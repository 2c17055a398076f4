"""Small pipelines of Stable Diffusion XL, written by diffusers itself: every option as published, widths divided."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from .small_sd import (
    END,
    LEADING,
    SCALED,
    SD15_TEXT,
    clip_vocabulary,
    diffusers,
    make_text_encoder,
    make_unet_condition,
    make_vae,
    randomized,
    transformers,
    write_tokenizer,
)

XL_UNET: dict[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 8,  # published: 256
    "attention_head_dim": (2, 4, 8),  # published: 5, 10, 20
    "block_out_channels": (16, 32, 64),  # published: 320, 640, 1280
    "cross_attention_dim": 64,  # published: 2048
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "in_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 8,  # published: 32
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 20 + 6 * 8,  # published: 1280 + 6 x 256
    "sample_size": 8,  # published: 128
    "transformer_layers_per_block": (1, 2, 3),  # published: 1, 2, 10
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "upcast_attention": None,
    "use_linear_projection": True,
}
XL_BASE_UNET: dict[str, Any] = {
    **XL_UNET,
    "addition_time_embed_dim": 256,
    "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280),
    "cross_attention_dim": 2048,
    "norm_num_groups": 32,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": (1, 2, 10),
}
"""As stabilityai/stable-diffusion-xl-base-1.0 has it."""
XL_VAE: dict[str, Any] = {"scaling_factor": 0.13025, "force_upcast": True, "sample_size": 64}  # published: 1024
XL_TEXT_2: dict[str, Any] = {
    "hidden_size": 40,  # published: 1280
    "intermediate_size": 56,  # published: 5120
    "num_hidden_layers": 4,  # published: 32
    "num_attention_heads": 4,  # published: 20
    "hidden_act": "gelu",
    "projection_dim": 20,  # published: 1280
}
XL_PIPELINES: dict[str, dict[str, Any]] = {
    "base": {"scheduler": ("EulerDiscreteScheduler", {**LEADING, "timestep_spacing": "leading"})},
    "turbo": {"scheduler": ("EulerAncestralDiscreteScheduler", {**SCALED, "timestep_spacing": "trailing"})},
    "an end that is said": {
        "scheduler": ("DDIMScheduler", {**LEADING, "clip_sample": False, "set_alpha_to_one": False}),
        "end": clip_vocabulary()[END],
        "flags": {"force_zeros_for_empty_prompt": False},
    },
}


def make_projected(end: int, **fields: Any) -> Any:
    torch.manual_seed(4)
    config = transformers.CLIPTextConfig(
        vocab_size=len(clip_vocabulary()), bos_token_id=0, eos_token_id=end, pad_token_id=1, **{**XL_TEXT_2, **fields}
    )
    return randomized(transformers.CLIPTextModelWithProjection(config))


def write_stable_diffusion_xl(folder: Path, name: str = "base", **options: Any) -> Any:
    """A pipeline, saved to a folder: returns diffusers' own."""
    given = {**XL_PIPELINES[name], **options}
    scheduler, of_scheduler = given["scheduler"]
    pads = {"tokenizer": END, "tokenizer_2": "!"}
    for tokenizer, pad in pads.items():
        write_tokenizer(folder / tokenizer, pad=pad)
    pipeline = getattr(diffusers, given.get("kind", "StableDiffusionXLPipeline"))(
        vae=make_vae(**{**XL_VAE, **given.get("vae", {})}),
        text_encoder=make_text_encoder(**{**SD15_TEXT, **given.get("text", {})}),
        text_encoder_2=make_projected(given.get("end", 2), **given.get("text_2", {})),
        **{tokenizer: transformers.CLIPTokenizer.from_pretrained(folder / tokenizer) for tokenizer in pads},
        unet=make_unet_condition(**{**XL_UNET, **given.get("unet", {})}),
        scheduler=getattr(diffusers, scheduler)(**of_scheduler),
        **given.get("flags", {}),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    for tokenizer, pad in pads.items():
        shutil.rmtree(folder / tokenizer)
        write_tokenizer(folder / tokenizer, pad=pad)
    return pipeline
