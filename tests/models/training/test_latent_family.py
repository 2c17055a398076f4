"""Training a UNet on latents: that they are the autoencoder's, that its checkpoint is exported, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from aigc_models.families.unet_config import UNetConfig
from aigc_models.families.vae import AutoencoderKL
from aigc_models.families.vae_config import DOWN, UP, VaeConfig
from aigc_models.sources import resolve
from aigc_models.torch_session import TorchSession
from aigc_models.training import families, recipes
from aigc_models.training.every import Every
from aigc_models.training.families import FAMILIES, train_family
from aigc_models.training.options import TrainOptions
from aigc_models.weights.checkpoint import load_checkpoint, save_checkpoint
from aigc_runtime.errors import AigcError, CheckpointError, InputError
from aigc_runtime.pipelines.diffusion import DiffusionPipeline

from .interrupted import assert_resumes_bit_for_bit
from .test_families import make_pictures

TOLERANCE = 1e-5  # float32, sums in another order


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    real = recipes.unet_model

    def model(size: int = 16, channels: int = 1, classes: int = 10, _width: int | None = None) -> UNetConfig:
        config = real(size, channels, classes)
        widths = (4,) * len(config.block_out_channels)
        changes: dict[str, Any] = {"block_out_channels": widths, "norm_num_groups": 2, "attention_head_dim": 4}
        return UNetConfig(**{**config.__dict__, **changes})

    monkeypatch.setattr(recipes, "unet_model", model)
    monkeypatch.setattr(families, "SAMPLES", 2)


def make_vae(folder: Path, *, channels: int = 3, factor: float = 0.25) -> Path:
    torch.manual_seed(0)
    config = VaeConfig(
        in_channels=channels,
        out_channels=channels,
        latent_channels=3,
        down_block_types=(DOWN,) * 2,
        up_block_types=(UP,) * 2,
        block_out_channels=(4, 4),
        norm_num_groups=2,
        sample_size=16,
        scaling_factor=factor,
    )
    save_checkpoint(folder, AutoencoderKL(config), {"_class_name": "AutoencoderKL", **config.to_dict()})
    return folder


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    return make_vae(tmp_path / "vae")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_pictures(tmp_path / "data", "cat", "dog", size=16)


def test_latents_are_diffusers_own(vae: Path, data: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    prepared = FAMILIES["latent_unet"](data, TrainOptions(vae=str(vae)), 1)
    latents = prepared.task.data  # type: ignore[attr-defined]
    images = FAMILIES["unet"](data, TrainOptions(), 1).task.data  # type: ignore[attr-defined]
    theirs = diffusers.AutoencoderKL.from_config(json.loads((vae / "config.json").read_text())).eval()
    theirs.load_state_dict(load_file(vae / "model.safetensors"))
    with torch.no_grad():
        expected = theirs.encode(images.train).latent_dist.mean * 0.25
    assert latents.train.shape == (10, 3, 8, 8)
    torch.testing.assert_close(latents.train, expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert torch.equal(latents.train_labels, images.train_labels)
    assert prepared.notes[-1] == "latents of 3x8x8, encoded once"


def test_a_short_run_leaves_a_unet_that_draws_latents(tmp_path: Path, vae: Path, data: Path) -> None:
    report = train_family(
        "latent_unet",
        output=tmp_path / "out",
        data=data,
        vae=str(vae),
        steps=2,
        batch_size=2,
        sample_every=Every(steps=2),
    )
    assert report["quality"].keys() == {"held_out_loss"}
    assert report["samples"] == 2
    record = json.loads((tmp_path / "out" / "config.json").read_text())
    digest = load_checkpoint(vae).sha256
    assert record["latent_space"] == {"vae_sha256": digest, "scaling_factor": 0.25, "picture_shape": [3, 16, 16]}
    program = resolve(str(tmp_path / "out"))
    assert (program.kind, program.settings.sample_shape) == ("diffusion", (3, 8, 8))
    assert (program.settings.num_classes, program.settings.class_names) == (2, ("cat", "dog"))
    assert not program.settings.schedule.clip_sample
    assert any(
        f"divided by 0.25, they are decoded by the autoencoder whose weights have the SHA-256 {digest}" in n
        for n in program.notes
    )
    # The samples are what the autoencoder, read by itself, makes of what the runtime draws.
    pipeline = DiffusionPipeline(TorchSession(program.part), program.settings)
    latents = pipeline.generate([0, 1] * 4, seed=0)
    module = AutoencoderKL(
        VaeConfig.from_dict(
            {k: v for k, v in json.loads((vae / "config.json").read_text()).items() if k != "_class_name"}
        )
    )
    module.load_state_dict(load_file(vae / "model.safetensors"))
    with torch.no_grad():
        first = module.eval().decode(torch.from_numpy(latents[:1]) / 0.25)[0].clamp(-1, 1).numpy()
    drawn = np.asarray(Image.open(tmp_path / "out" / "samples-0000002.png"))
    corner = drawn[8:72, 8:72][::4, ::4]  # two pixels of frame, each pixel four wide
    expected = np.rint((first.transpose(1, 2, 0) + 1) * 127.5)
    assert np.abs(corner.astype(float) - expected).max() <= 1


def test_one_class_is_unconditional(tmp_path: Path, vae: Path) -> None:
    data = make_pictures(tmp_path / "photos", ".", size=16, each=10)
    train_family("latent_unet", output=tmp_path / "out", data=data, vae=str(vae), steps=1, batch_size=2)
    settings = resolve(str(tmp_path / "out")).settings
    assert (settings.num_classes, settings.sample_shape) == (None, (3, 8, 8))


def test_digits_are_judged_by_their_classifier(tmp_path: Path) -> None:
    vae = make_vae(tmp_path / "gray", channels=1)
    prepared = FAMILIES["latent_unet"](None, TrainOptions(vae=str(vae)), 4)
    names = [metric.name for metric in prepared.finish(prepared.task.model.eval()).metrics]
    assert names == ["held_out_loss", "class_accuracy", "frechet_distance"]


@pytest.mark.slow
def test_it_goes_on_bit_for_bit_and_not_with_another_autoencoder(tmp_path: Path, vae: Path, data: Path) -> None:
    options: dict[str, Any] = {"data": data, "vae": str(vae), "steps": 4, "batch_size": 2}
    assert_resumes_bit_for_bit(tmp_path, "latent_unet", stop_at=2, **options)

    def stop(step: int, _steps: int, _losses: dict[str, float]) -> None:
        if step == 2:  # the state of step 1 is saved
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        train_family("latent_unet", output=out, on_step=stop, save_every=Every(steps=1), **options)
    weights = load_file(vae / "model.safetensors")
    weights["decoder.conv_in.bias"] += 1
    save_file(weights, vae / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"used other settings: .*vae_sha256"):
        train_family("latent_unet", output=out, resume=True, **options)


def test_what_is_no_autoencoder_for_these_pictures(tmp_path: Path, vae: Path, data: Path) -> None:
    def refused(error: type[AigcError], message: str, **options: Any) -> None:
        with pytest.raises(error, match=message):
            train_family("latent_unet", output=tmp_path / "out", data=data, steps=1, **options)
        assert not (tmp_path / "out").exists()

    refused(InputError, "no autoencoder was given\ntrain one by `aigc-export train vae`")
    refused(CheckpointError, "not there|No such|cannot|no such", vae=str(tmp_path / "none"))
    refused(InputError, "the pictures have 1 channels, .* takes 3\ngive --channels 3", vae=str(vae), channels=1)
    refused(
        InputError, "size is 17, and the autoencoder makes latents 1/2 as wide\nmust be a mult", vae=str(vae), size=17
    )
    refused(InputError, "size is 34, of which the latents are 17 wide: no UNet", vae=str(vae), size=34)
    train_family("unet", output=tmp_path / "pixels", steps=1, batch_size=1)
    refused(
        CheckpointError, "_class_name is None\nexpected the folder of an AutoencoderKL", vae=str(tmp_path / "pixels")
    )


def test_an_autoencoder_that_was_not_trained_to_its_end(tmp_path: Path, data: Path) -> None:
    def stop(step: int, _steps: int, _losses: dict[str, float]) -> None:
        if step == 2:  # the state of step 1 is saved
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_family("vae", output=tmp_path / "vae", data=data, steps=3, on_step=stop, save_every=Every(steps=1))
    with pytest.raises(InputError, match=r"stopped at step 1 of 3, before its latents were measured\ngo on with"):
        train_family("latent_unet", output=tmp_path / "out", data=data, vae=str(tmp_path / "vae"), steps=1)


@pytest.mark.parametrize(
    "latents",
    [
        pytest.param([], marks=pytest.mark.slow),
        pytest.param({}, marks=pytest.mark.slow),
        {"scaling_factor": "x", "vae_sha256": ""},
    ],
)
def test_a_config_whose_latents_were_not_written_by_training(tmp_path: Path, latents: object) -> None:
    train_family("unet", output=tmp_path / "out", steps=1, batch_size=1)
    file = tmp_path / "out" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "latent_space": latents}))
    with pytest.raises(CheckpointError, match="latent_space is not what training writes"):
        resolve(str(tmp_path / "out"))
