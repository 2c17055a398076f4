"""Training an autoencoder: its loss and scaling factor by the formulas, and its checkpoint as diffusers reads it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from aigc_models.data.image_data import ImageData
from aigc_models.families.vae import AutoencoderKL, VaeConfig
from aigc_models.sources import outline, resolve
from aigc_models.training import estimate, recipes
from aigc_models.training.every import Every
from aigc_models.training.families import FAMILIES, train_family
from aigc_models.training.options import TrainOptions
from aigc_models.training.vae_family import latents_of
from aigc_runtime.errors import InputError

from .interrupted import assert_resumes_bit_for_bit
from .test_families import make_pictures

diffusers = pytest.importorskip("diffusers")

TOLERANCE = 1e-4  # float32, of means over a few thousand numbers


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    real = recipes.vae_model

    def model(size: int = 16, channels: int = 1) -> VaeConfig:
        config = real(size, channels)
        widths = (4,) * len(config.block_out_channels)
        return VaeConfig(**{**config.__dict__, "block_out_channels": widths, "norm_num_groups": 2})

    monkeypatch.setattr(recipes, "vae_model", model)


def test_a_short_run_leaves_what_diffusers_and_the_export_read(tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data", "cat", "dog", size=16)
    report = train_family("vae", output=tmp_path / "out", data=data, steps=2, batch_size=2, sample_every=Every(steps=2))
    assert report["quality"].keys() == {"reconstruction_psnr_db", "kl_of_a_latent"}
    assert (report["samples"], report["data"]) == (2, "held-out part of 'data'")
    assert outline(str(tmp_path / "out"))[0] == "diffusers"
    program = resolve(str(tmp_path / "out"))
    assert sorted(program.parts) == ["vae_decoder", "vae_encoder"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["_class_name"] == "AutoencoderKL"
    theirs = diffusers.AutoencoderKL.from_config(config).eval()
    theirs.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    # Their encoder's latents of what was trained on have the deviation 1 behind the factor.
    prepared = FAMILIES["vae"](data, TrainOptions(), 1)
    images: ImageData = prepared.task.data  # type: ignore[attr-defined]
    with torch.no_grad():
        found = theirs.encode(images.train).latent_dist
        drawn = torch.cat([found.sample(torch.Generator().manual_seed(i)) for i in range(64)])
    assert float(drawn.std()) * config["scaling_factor"] == pytest.approx(1.0, rel=0.01)
    with Image.open(tmp_path / "out" / "samples-0000002.png") as drawn_picture:
        assert drawn_picture.mode == "RGB"


def test_quality_is_that_of_numpy() -> None:
    prepared = FAMILIES["vae"](None, TrainOptions(), 40)
    model = prepared.task.model.eval()
    assert isinstance(model, AutoencoderKL)
    measured = prepared.finish(model)
    images: ImageData = prepared.task.data  # type: ignore[attr-defined]
    with torch.no_grad():
        mean, logvar = model.encode(images.held_out[:40])
        decoded = model.decode(mean).numpy()
    target = images.held_out[:40].numpy().astype(np.float64)
    errors = ((np.clip(decoded, -1, 1) - target) ** 2).mean(axis=(1, 2, 3))
    quality = {metric.name: metric.value for metric in measured.metrics}
    assert quality["reconstruction_psnr_db"] == pytest.approx(np.mean(10 * np.log10(4 / errors)), abs=TOLERANCE)
    # Kingma & Welling 2014, eq. 10: -KL = 1/2 sum_j (1 + log sigma_j^2 - mu_j^2 - sigma_j^2)
    mu, log_sigma2 = mean.double().numpy(), logvar.double().numpy()
    kl = -0.5 * (1 + log_sigma2 - mu**2 - np.exp(log_sigma2)).sum(axis=(1, 2, 3))
    assert quality["kl_of_a_latent"] == pytest.approx(kl.mean(), rel=TOLERANCE)
    every_mean, every_logvar = (part.double().numpy() for part in latents_of(model, images.train))
    variance = every_mean.var() + np.exp(every_logvar).mean()
    assert measured.record == {"scaling_factor": pytest.approx(1 / math.sqrt(variance), rel=TOLERANCE)}


def test_the_loss_is_the_formulas() -> None:
    prepared = FAMILIES["vae"](None, TrainOptions(batch_size=3), 1)
    task: Any = prepared.task
    model = task.model
    rng = torch.Generator().manual_seed(5)
    rows = torch.randint(len(task.data.train), (3,), generator=rng)
    images = task.data.train[rows]
    with torch.no_grad():
        mean, logvar = model.encode(images)
        noise = torch.randn(mean.shape, generator=rng)
        decoded = model.decode(mean + torch.exp(logvar / 2) * noise)
    kl = -0.5 * (1 + logvar - mean**2 - logvar.exp()).flatten(1).sum(1).mean()
    expected = float((decoded - images).abs().mean() + recipes.KL_WEIGHT * kl / images[0].numel())
    losses = task.step(torch.Generator().manual_seed(5))
    assert losses == {"loss": pytest.approx(expected, rel=TOLERANCE)}


@pytest.mark.slow
def test_it_goes_on_bit_for_bit_also_within_the_game(tmp_path: Path) -> None:
    assert_resumes_bit_for_bit(tmp_path, "vae", stop_at=4, steps=6, batch_size=2, gan_weight=0.05)


def test_the_cost_of_a_step_is_counted_right() -> None:
    task = FAMILIES["vae"](None, TrainOptions(batch_size=4), 1).task
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        task.model(torch.zeros(4, 1, 16, 16))
    assert estimate.step_cost(task, 4).flops == pytest.approx(3 * counter.get_total_flops(), rel=0.25)


@pytest.mark.parametrize(("size", "downscale"), [(16, 2), (28, 2), (32, 4), (48, 4), (64, 4), (96, 4)])
def test_the_latents_are_of_sizes_that_a_unet_has(size: int, downscale: int) -> None:
    config = recipes.vae_model(size, 3)
    assert config.downscale == downscale
    assert recipes.unet_model(size // downscale, config.latent_channels).sample_size == size // downscale


@pytest.mark.parametrize(
    ("size", "nearest"), [(17, "--size 16 or --size 20"), (8, "--size 16"), (30, "--size 28 or --size 32")]
)
def test_sizes_of_which_there_are_no_latents(tmp_path: Path, size: int, nearest: str) -> None:
    with pytest.raises(
        InputError, match=f"size is {size}, which an autoencoder cannot have\nthe nearest .*: {nearest}"
    ):
        train_family("vae", output=tmp_path / "out", steps=1, size=size)
    assert not (tmp_path / "out").exists()


def test_nothing_held_out(tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data", "a", "b", "c", size=16, each=4)
    with pytest.raises(InputError, match="no picture is held out\nneed at least 5 different pictures of one class"):
        train_family("vae", output=tmp_path / "out", data=data, steps=1)
