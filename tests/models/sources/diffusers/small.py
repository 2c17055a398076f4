"""Small pipelines, written by diffusers itself: every tensor random, norms and biases too, so that none is mixed up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

diffusers: Any = pytest.importorskip("diffusers")

SMALL: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}

CIFAR10_32: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 16, 16, 16),  # published: 128, 256, 256, 256
    "layers_per_block": 2,
    "norm_num_groups": 4,  # published: 32
    "attention_head_dim": None,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "act_fn": "silu",
    "center_input_sample": False,
    "mid_block_scale_factor": 1,
}
"""google/ddpm-cifar10-32, a sixteenth as wide."""

CELEBAHQ_256: dict[str, Any] = {
    **CIFAR10_32,
    "sample_size": 64,  # published: 256
    "block_out_channels": (8, 8, 12, 12, 16, 16),  # published: 128, 128, 256, 256, 512, 512
    "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
}
"""google/ddpm-celebahq-256, a sixteenth as wide."""


def make_unet(**fields: Any) -> Any:
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**{**SMALL, **fields})
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return unet.eval()


def make_pipeline(unet: Any, *, kind: str = "DDPM", scheduler: str = "", **options: Any) -> Any:
    made = getattr(diffusers, f"{scheduler or kind}Scheduler")(**options)
    if kind == "DDIM":  # whose pipeline makes a DDIMScheduler of whatever it is given
        assert scheduler in ("", "DDIM")
    return getattr(diffusers, f"{kind}Pipeline")(unet, made)


def write_pipeline(folder: Path, **options: Any) -> Any:
    """A pipeline, saved to a folder."""
    pipeline = make_pipeline(options.pop("unet", None) or make_unet(), **options)
    pipeline.save_pretrained(folder)
    return pipeline
