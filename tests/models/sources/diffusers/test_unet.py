"""Our UNet from a folder that diffusers wrote gives diffusers' output; what it cannot do is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aigc_models.families.unet_config import UNetConfig
from aigc_models.sources import resolve
from aigc_models.sources.diffusers.unet import read_unet
from aigc_runtime.errors import AigcError

from .small import CELEBAHQ_256, CIFAR10_32, SMALL, make_unet

TOLERANCE = 1e-5  # of the largest output: float32

SHAPES: dict[str, dict[str, Any]] = {
    "small": {},
    "ddpm-cifar10-32": CIFAR10_32,
    "ddpm-celebahq-256": CELEBAHQ_256,
    "one channel": {"in_channels": 1, "out_channels": 1},
    "learned variance": {"out_channels": 6},
    "one level": {
        "block_out_channels": (16,),
        "down_block_types": ("AttnDownBlock2D",),
        "up_block_types": ("AttnUpBlock2D",),
    },
    "classes": {"num_class_embeds": 5},
    "classes as steps": {"num_class_embeds": 5, "class_embed_type": "timestep"},
    "resampling residual blocks": {
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "resnet_time_scale_shift": "scale_shift",
    },
    "resampling attention blocks": {
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "act_fn": "gelu",
    },
    "a middle of its own": {"mid_block_scale_factor": 1.41, "attn_norm_num_groups": 8, "norm_eps": 1e-6},
    "no middle": {"mid_block_type": None, "center_input_sample": True},
    "no attention in the middle": {"add_attention": False, "time_embedding_dim": 24},
    "a learned time": {"time_embedding_type": "learned", "num_train_timesteps": 1000, "act_fn": "mish"},
    "Fourier features": {"time_embedding_type": "fourier"},
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_folder_gives_diffusers_output(name: str, tmp_path: Path) -> None:
    theirs = make_unet(**SHAPES[name])
    theirs.save_pretrained(tmp_path / "model")
    scheduler = {"_class_name": "DDPMScheduler"}
    if name == "learned variance":
        scheduler["variance_type"] = "learned_range"
    (tmp_path / "model" / "scheduler_config.json").write_text(json.dumps(scheduler))
    program = resolve(str(tmp_path / "model"))
    config = theirs.config
    torch.manual_seed(1)
    sample = torch.randn(2, config.in_channels, config.sample_size, config.sample_size)
    step = torch.tensor([3, 871])
    feeds: list[Any] = [] if config.num_class_embeds is None else [torch.tensor([4, 1])]
    with torch.no_grad():
        expected = theirs(sample, step, *feeds).sample
        (actual,) = program.parts["model"].module(sample, step.float(), *feeds)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_a_field_that_an_older_version_did_not_write_has_its_default() -> None:
    old = {k: v for k, v in json.loads(json.dumps(SMALL)).items() if k != "attention_head_dim"}
    read = read_unet({"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", **old})
    assert read == UNetConfig(**{**SMALL, "attention_head_dim": 8})


def test_what_diffusers_does_not_look_at_is_not_looked_at() -> None:
    given = {"_class_name": "UNet2DModel", **SMALL, "num_train_timesteps": 1000, "downsample_type": None}
    assert read_unet({**json.loads(json.dumps(given)), "sample_size": [16, 16]}) == UNetConfig(**SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "_class_name is 'UNet2DConditionModel'\nsupported: UNet2DModel"),
        ({"dual_cross": True}, "the field 'dual_cross' is True, and what it means is not known here"),
        ({"add_attentions": 1}, "nearest known: 'add_attention'"),
        (
            {"class_embed_type": "identity"},
            "class_embed_type is 'identity', which is not supported\nsuch a model takes",
        ),
        ({"class_embed_type": "timestep"}, "class_embed_type is 'timestep', num_class_embeds is None"),
        ({"class_embed_type": "projection", "num_class_embeds": 3}, "class_embed_type is 'projection'\nvalid: None"),
        ({"sample_size": None}, "sample_size is null\ngive it the value"),
        ({"sample_size": [16, 32]}, r"sample_size is \[16, 32\], which is not supported\nsupported: squares"),
        ({"norm_num_groups": None}, "norm_num_groups is null"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift is 'spatial'\nvalid: default, scale_shift"),
        ({"time_embedding_type": "learned"}, "num_train_timesteps is None\nset it exactly where"),
        ({"time_embedding_type": "gaussian"}, "time_embedding_type is 'gaussian'\nvalid: positional"),
        ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, "is 'SkipDownBlock2D'\nvalid: DownBlock2D"),
        ({"up_block_types": ["UpBlock2D", "AttnSkipUpBlock2D"]}, "is 'AttnSkipUpBlock2D'\nvalid: UpBlock2D"),
        ({"downsample_type": "kernel"}, "downsample_type is 'kernel'\nvalid: conv, resnet"),
        ({"act_fn": "elu"}, "act_fn is 'elu'\nvalid: silu"),
        ({"attn_norm_num_groups": 5}, "attn_norm_num_groups is 5\nmust be a divisor of the 16 channels"),
        ({"mid_block_scale_factor": 0}, "mid_block_scale_factor is 0.0\nmust be a number above 0"),
        ({"block_out_channels": 8}, "block_out_channels is the number 8"),
    ],
)
def test_what_is_not_done_is_refused_by_its_name(change: dict[str, Any], message: str) -> None:
    given = {"_class_name": "UNet2DModel", **json.loads(json.dumps(SMALL)), **change}
    with pytest.raises(AigcError, match=message):
        read_unet(given)
