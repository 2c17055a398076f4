"""Components alone: an autoencoder, a text encoder, a UNet with a context."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from aigc_models.sources import outline, resolve
from aigc_models.sources.diffusers.folder import ASSUMED
from aigc_models.torch_session import open_torch
from aigc_runtime.errors import AigcError, CheckpointError
from aigc_runtime.pipelines.tensors import TensorsPipeline

from .small_sd import (
    LCM_UNET,
    SD15_TEXT,
    make_text_encoder,
    make_tiny_vae,
    make_unet_condition,
    make_vae,
    write_stable_diffusion,
)

TOLERANCE = 1e-5  # float32, relative to the largest output


def test_an_autoencoder_alone_takes_a_picture_apart_and_together(tmp_path: Path) -> None:
    theirs = make_vae()
    theirs.save_pretrained(tmp_path / "vae")
    program = resolve(str(tmp_path / "vae"))
    assert (program.kind, list(program.parts)) == ("tensors", ["vae_encoder", "vae_decoder"])
    assert program.settings.typical_sizes == {"height": 128, "width": 128, "latent_height": 16, "latent_width": 16}
    picture = torch.randn(2, 3, 16, 24)
    with TensorsPipeline(open_torch(program), program.settings, program.engines) as pipeline:
        found = pipeline.generate({"picture": picture.numpy()})
    with torch.no_grad():
        expected = theirs.encode(picture).latent_dist
        decoded = theirs.decode(expected.mean).sample
    for name, wanted in (("std", expected.std), ("image", decoded)):
        assert np.abs(found[name] - wanted.numpy()).max() <= TOLERANCE * float(wanted.abs().max())


def test_a_tiny_autoencoder_alone(tmp_path: Path) -> None:
    theirs = make_tiny_vae()
    theirs.save_pretrained(tmp_path / "taesd")
    assert outline(str(tmp_path / "taesd"))[1].architecture == "AutoencoderTiny"
    program = resolve(str(tmp_path / "taesd"))
    assert program.settings.typical_sizes == {"height": 512, "width": 512, "latent_height": 64, "latent_width": 64}
    picture = torch.randn(2, 3, 16, 24)
    with TensorsPipeline(open_torch(program), program.settings, program.engines) as pipeline:
        found = pipeline.generate({"picture": picture.numpy()})
    with torch.no_grad():
        decoded = theirs.decode(theirs.encode(picture).latents).sample
    assert list(found) == ["image"]
    assert np.abs(found["image"] - decoded.numpy()).max() <= TOLERANCE * float(decoded.abs().max())


def test_an_autoencoder_of_fixed_sides(tmp_path: Path) -> None:
    make_vae().save_pretrained(tmp_path / "vae")
    program = resolve(str(tmp_path / "vae"), options={"dynamic_size": False})
    assert program.parts["vae_encoder"].interface.inputs[0].shape == ("batch", 3, 128, 128)
    assert program.parts["vae_decoder"].interface.inputs[0].shape == ("batch", 4, 16, 16)


def test_a_text_encoder_alone(tmp_path: Path) -> None:
    theirs = make_text_encoder(**SD15_TEXT)
    theirs.save_pretrained(tmp_path / "text")
    program = resolve(str(tmp_path / "text"))
    ids = torch.randint(0, 500, (2, 77))
    with TensorsPipeline(open_torch(program), program.settings, program.engines) as pipeline:
        found = pipeline.generate({"input_ids": ids.numpy()})["encoder_hidden_states"]
    with torch.no_grad():
        expected = theirs(ids)[0]
    assert np.abs(found - expected.numpy()).max() <= TOLERANCE * float(expected.abs().max())


def test_a_unet_inside_a_pipeline_brings_its_scheduler(tmp_path: Path) -> None:
    write_stable_diffusion(tmp_path / "sd", "SD 2.1")
    program = resolve(str(tmp_path / "sd" / "unet"))
    assert program.kind == "diffusion"
    assert program.settings.schedule.prediction_type == "v_prediction"
    assert [spec.name for spec in program.part.interface.inputs] == ["sample", "timestep", "encoder_hidden_states"]
    shutil.move(tmp_path / "sd" / "unet", tmp_path / "alone")
    assert resolve(str(tmp_path / "alone")).settings.schedule == ASSUMED.schedule


def test_a_unet_whose_time_has_a_condition_does_not_run_alone(tmp_path: Path) -> None:
    make_unet_condition(**LCM_UNET).save_pretrained(tmp_path / "unet")
    with pytest.raises(AigcError, match=r"time_cond_proj_dim is 12.*\nsuch a model runs in a pipeline from text"):
        resolve(str(tmp_path / "unet"))


def test_outlines_take_no_weights(tmp_path: Path) -> None:
    write_stable_diffusion(tmp_path / "sd")
    for name, kind, architecture, says in (
        ("vae", "tensors", "AutoencoderKL", "pictures of 3 channels to latents of 4, 1/8 as wide"),
        ("text_encoder", "tensors", "CLIPTextModel", "77 of 546 tokens to states of 24 numbers"),
        ("unet", "diffusion", "UNet2DConditionModel", "16 x 16 pixels of 4 channels"),
    ):
        _, found = outline(str(tmp_path / "sd" / name))
        assert (found.kind, found.architecture) == (kind, architecture)
        assert says in found.notes[0]
        assert found.parameters == resolve(str(tmp_path / "sd" / name)).parameters


def test_weights_of_another_configuration(tmp_path: Path) -> None:
    make_vae(layers_per_block=1).save_pretrained(tmp_path / "other")
    make_vae().save_pretrained(tmp_path / "vae")
    file = "diffusion_pytorch_model.safetensors"
    shutil.copy(tmp_path / "other" / file, tmp_path / "vae" / file)
    with pytest.raises(CheckpointError, match="lacks tensor"):
        resolve(str(tmp_path / "vae"))
