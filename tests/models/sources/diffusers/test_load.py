"""Whole pipelines: equal seeds give the pictures of diffusers' own DDPMPipeline and DDIMPipeline on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aigc_models.sources import resolve
from aigc_models.torch_session import open_torch
from aigc_runtime.core.compare import psnr_db
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.diffusion import DiffusionPipeline

from .small import CIFAR10_32, make_unet, write_pipeline

# diffusers turns tensors into arrays in a way that numpy 2 announces the end of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

MIN_PSNR_DB = 60.0
SEED = 7

CASES: dict[str, dict[str, Any]] = {
    "ddpm": {},
    "ddpm of large variance": {"variance_type": "fixed_large"},
    "ddpm of learned variance": {"variance_type": "learned_range", "unet": {"out_channels": 6}},
    "ddpm-cifar10-32": {"variance_type": "fixed_large", "unet": CIFAR10_32},
    "ddim": {"kind": "DDIM"},
    "ddim of velocities": {
        "kind": "DDIM",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
    "a pipeline with dpm-solver": {"scheduler": "DPMSolverMultistep"},
}


def their_pictures(pipeline: Any, count: int, steps: int, **options: Any) -> Array:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(SEED)
    images: Array = pipeline(
        batch_size=count, generator=generator, num_inference_steps=steps, output_type="np", **options
    ).images
    return images.transpose(0, 3, 1, 2)


def our_pictures(folder: Path, count: int, steps: int, **options: Any) -> Array:
    program = resolve(str(folder))
    with DiffusionPipeline(open_torch(program), program.settings) as pipeline:
        images = pipeline.generate(batch=count, steps=steps, seed=SEED, **options)
    return np.clip(images / 2 + 0.5, 0, 1)


@pytest.mark.parametrize("name", CASES)
def test_equal_seeds_give_equal_pictures(name: str, tmp_path: Path) -> None:
    options = dict(CASES[name])
    theirs = write_pipeline(tmp_path / "tiny", unet=make_unet(**options.pop("unet", {})), **options)
    for steps in (3, 20):
        expected = their_pictures(theirs, 2, steps)
        assert psnr_db(expected, our_pictures(tmp_path / "tiny", 2, steps)) >= MIN_PSNR_DB
        assert expected.std() > 0.05


def test_ddim_with_fresh_noise(tmp_path: Path) -> None:
    theirs = write_pipeline(tmp_path / "tiny", kind="DDIM")
    expected = their_pictures(theirs, 2, 10, eta=0.7)
    assert psnr_db(expected, our_pictures(tmp_path / "tiny", 2, 10, eta=0.7)) >= MIN_PSNR_DB
    assert psnr_db(expected, our_pictures(tmp_path / "tiny", 2, 10)) < MIN_PSNR_DB


def test_another_seed_and_another_sampler_give_other_pictures(tmp_path: Path) -> None:
    theirs = write_pipeline(tmp_path / "tiny")
    expected = their_pictures(theirs, 1, 10)
    others: list[dict[str, Any]] = [{"sampler": "ddim"}, {"sampler": "heun"}, {"steps": 11}]
    for options in others:
        found = our_pictures(tmp_path / "tiny", 1, **{"steps": 10, **options})
        assert psnr_db(expected, found) < MIN_PSNR_DB


def test_classes_come_in(tmp_path: Path) -> None:
    """diffusers' pipelines pass no classes on: its loop is written out here."""
    unet = make_unet(num_class_embeds=4)
    pipeline = write_pipeline(tmp_path / "tiny", unet=unet, kind="DDIM")
    generator = torch.Generator().manual_seed(SEED)
    x, labels = torch.randn(2, 3, 16, 16, generator=generator), torch.tensor([3, 1])
    pipeline.scheduler.set_timesteps(8)
    with torch.no_grad():
        for t in pipeline.scheduler.timesteps:
            x = pipeline.scheduler.step(unet(x, t, labels).sample, t, x).prev_sample
    program = resolve(str(tmp_path / "tiny"))
    assert program.settings.num_classes == 4
    with DiffusionPipeline(open_torch(program), program.settings) as ours:
        assert psnr_db(x.numpy(), ours.generate([3, 1], steps=8, seed=SEED)) >= MIN_PSNR_DB
        assert psnr_db(x.numpy(), ours.generate([2, 1], steps=8, seed=SEED)) < MIN_PSNR_DB
