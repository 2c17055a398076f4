"""A diffusion UNet in the form of OpenAI's: the time scales and shifts norms, residual blocks halve and double."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from examples.open_pictures import FASHION_NAMES
from quant_entry import Entry

from aigc_models.data.image_data import ImageData
from aigc_models.families.unet_config import UNetConfig
from aigc_models.sources import resolve
from aigc_models.training import recipes
from aigc_models.training.loop import train
from aigc_models.training.tasks import UNetTask
from aigc_models.weights.checkpoint import save_checkpoint
from aigc_runtime.io.jsonable import to_json
from trained.data import fashion
from trained.loop import loop_config
from trained.recipe import Recipe, Training

__all__ = ["PIXEL_UNET"]

CLASSES = len(FASHION_NAMES)


def config_of(training: Training) -> UNetConfig:
    """Three levels, attention on the lower two, as in Dhariwal & Nichol 2021 (section 3)."""
    width = training.width
    return UNetConfig(
        sample_size=training.size,
        in_channels=1,
        out_channels=1,
        block_out_channels=(width, 2 * width, 2 * width),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        attention_head_dim=width,
        num_class_embeds=CLASSES + 1,
        null_class=CLASSES,
        norm_num_groups=8,
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attn_norm_num_groups=8,
    )


def train_pixel_unet(training: Training, folder: Path, _needs: Mapping[str, Path]) -> None:
    """Train by the package's own loop, loss and schedule."""
    torch.manual_seed(training.seed)
    (images, labels), (held_out, held_out_labels) = (
        fashion(training.size, rows=training.rows),
        fashion(training.size, rows=10, held_out=True),
    )
    data = ImageData(
        train=torch.from_numpy(images),
        train_labels=torch.from_numpy(labels),
        held_out=torch.from_numpy(held_out),
        held_out_labels=torch.from_numpy(held_out_labels),
        class_names=FASHION_NAMES,
    )
    config, schedule, loop = config_of(training), recipes.digits_schedule(), loop_config(training, ema=0.995)
    task = UNetTask(config, loop, data, schedule, recipes.CONDITION_DROPOUT)
    record = {
        "family": "unet",
        "model": config.to_dict(),
        "schedule": to_json(schedule),
        "class_names": list(FASHION_NAMES),
    }
    state = train(task, loop, record=record, output=folder / "model", resume=False)
    save_checkpoint(folder / "model", state.result, record, extra_files=state.files())


def enter_pixel_unet(_training: Training, folder: Path, _needs: Mapping[str, Path]) -> Entry:
    """The checkpoint, as the product loads it."""
    return Entry(program=resolve(str(folder / "model")))


PIXEL_UNET = Recipe(
    name="pixel-unet",
    about="diffusion UNet in OpenAI's form, Fashion-MNIST in 16x16",
    training=Training(steps=1200, batch_size=32, learning_rate=1e-3, size=16, width=24, rows=1000),
    made_by=(config_of, train_pixel_unet, recipes.digits_schedule()),
    train=train_pixel_unet,
    enter=enter_pixel_unet,
)
