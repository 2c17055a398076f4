"""The commands of docs/diffusion.md run as they stand, and write the pictures of diffusers' own pipeline."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aigc_runtime.core.compare import psnr_db

from ..page_blocks import run_blocks
from .conftest import tool_environment

MIN_PSNR_DB = 60.0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_the_page_on_diffusion_does_what_it_says(root: Path, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=None,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )
    pipeline = diffusers.DDPMPipeline(unet.eval(), diffusers.DDPMScheduler(variance_type="fixed_large"))
    pipeline.save_pretrained(tmp_path / "ddpm-cifar10-32")
    assert run_blocks((root / "docs" / "diffusion.md").read_text(), tmp_path, tool_environment()) == 3
    with Image.open(tmp_path / "pictures.png") as picture:
        assert picture.mode == "RGB"
    command = ["aigc-run", "generate", "out/ddpm", "--count", "3", "--steps", "20", "--seed", "7", "-o", "pictures.npy"]
    subprocess.run(command, cwd=tmp_path, env=tool_environment(), check=True, capture_output=True)
    ours = np.clip(np.load(tmp_path / "pictures.npy") / 2 + 0.5, 0, 1)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    theirs = pipeline(batch_size=3, generator=generator, num_inference_steps=20, output_type="np").images
    assert psnr_db(theirs.transpose(0, 3, 1, 2), ours) >= MIN_PSNR_DB
