"""config.json of an AutoencoderKL or an AutoencoderTiny: every field that diffusers knows is read, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from aigc_models.families.tiny_vae import AutoencoderTiny
from aigc_models.families.vae import AutoencoderKL
from aigc_models.sources.diffusers import autoencoder
from aigc_models.sources.diffusers.autoencoder import read_autoencoder, read_tiny_vae, read_vae
from aigc_runtime.errors import AigcError

from .small_sd import VAE, diffusers

PUBLISHED = {**VAE, "block_out_channels": (128, 256, 512, 512), "norm_num_groups": 32, "sample_size": 512}
PARAMETERS = 83_653_863  # of Stable Diffusion's


def as_json(fields: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps({"_class_name": "AutoencoderKL", **fields}))
    return values


def test_the_published_model_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        model = AutoencoderKL(read_vae(as_json(PUBLISHED)))
        theirs = diffusers.AutoencoderKL(**PUBLISHED)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS == theirs.num_parameters()


def test_every_field_of_theirs_is_known() -> None:
    config = json.loads(diffusers.AutoencoderKL().to_json_string())
    theirs = {field: value for field, value in config.items() if not field.startswith("_")}
    defaults = {**autoencoder._DEFAULTS, **{k: v[0] for k, v in autoencoder._FIXED.items()}}
    assert theirs == defaults
    assert read_vae(config) == read_vae(as_json({}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift_factor": 0.1}, "shift_factor is 0.1, which is not supported"),
        ({"latents_mean": [0.0] * 4}, "latents_mean is .* not supported"),
        ({"latents_std": [1.0] * 4}, "latents_std is .* not supported"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "down_block_types is 'AttnDownEncoderBlock2D'"),
        ({"scaling_factor": None}, "scaling_factor is null"),
        ({"sample_size": [64, 32]}, "sample_size is .*\nsupported: squares"),
        ({"use_tiling": True}, "the field 'use_tiling' is True, and what it means is not known here"),
        ({"norm_num_groups": 3}, "block_out_channels holds 8\nmust be multiples of norm_num_groups = 3"),
    ],
)
def test_what_is_not_done_is_refused_by_its_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AigcError, match=message):
        read_vae(as_json({**VAE, **change}))


TINY_PARAMETERS = 2_445_063  # of TAESD's encoder and decoder together


def tiny(fields: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps({"_class_name": "AutoencoderTiny", **fields}))
    return values


def test_the_published_tiny_model_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        model = AutoencoderTiny(read_tiny_vae(tiny({})))
        theirs = diffusers.AutoencoderTiny()
    assert sum(p.numel() for p in model.parameters()) == TINY_PARAMETERS == theirs.num_parameters()


def test_every_field_of_the_tiny_one_is_known() -> None:
    config = json.loads(diffusers.AutoencoderTiny().to_json_string())
    theirs = {field: value for field, value in config.items() if not field.startswith("_")}
    defaults = {**autoencoder._TINY_DEFAULTS, **{k: v[0] for k, v in autoencoder._TINY_FIXED.items()}}
    assert {k: v for k, v in theirs.items() if k not in autoencoder._TINY_UNUSED} == defaults
    assert read_autoencoder(config) == read_tiny_vae(tiny({}))
    assert read_autoencoder({**VAE, "_class_name": "AutoencoderKL"}) == read_autoencoder(VAE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"upsample_fn": "bilinear"}, "upsample_fn is 'bilinear', which is not supported"),
        ({"upsampling_scaling_factor": 4}, "upsampling_scaling_factor is 4"),
        ({"shift_factor": 0.1}, "shift_factor is 0.1"),
        ({"act_fn": None}, "act_fn is null"),
        ({"attention": True}, "the field 'attention' is True"),
        ({"num_decoder_blocks": [3, 3]}, "num_decoder_blocks is"),
    ],
)
def test_what_a_tiny_one_does_not_do_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AigcError, match=message):
        read_tiny_vae(tiny(change))


@pytest.mark.parametrize("kind", ["AutoencoderKLWan", None, ["AutoencoderKL"]])
def test_another_autoencoder(kind: object) -> None:
    with pytest.raises(AigcError, match=r"_class_name is .*\nsupported: AutoencoderKL, AutoencoderTiny"):
        read_autoencoder({**VAE, "_class_name": kind})
