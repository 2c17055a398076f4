"""What is known of diffusers' pipelines: their own defaults, by their signatures."""

from __future__ import annotations

import inspect

import pytest

from aigc_models.sources.diffusers.pipeline_forms import FORMS, refuse_refiner
from aigc_runtime.errors import CheckpointError

from .small_sd import diffusers


@pytest.mark.parametrize("name", FORMS)
def test_the_guidance_is_what_a_call_takes(name: str) -> None:
    kind = getattr(diffusers, name)
    assert inspect.signature(kind.__call__).parameters["guidance_scale"].default == FORMS[name].guidance_scale
    assert FORMS[name].two_encoders == ("text_encoder_2" in inspect.signature(kind).parameters)


def test_zeros_in_place_of_a_negative_text() -> None:
    assert FORMS["StableDiffusionXLPipeline"].zero_negative({})
    assert not FORMS["StableDiffusionXLPipeline"].zero_negative({"force_zeros_for_empty_prompt": False})
    assert not FORMS["StableDiffusionPipeline"].zero_negative({"force_zeros_for_empty_prompt": True})


def test_the_scaling_factor_of_another_models_autoencoder_is_told() -> None:
    for name, own, other in (
        ("StableDiffusionPipeline", 0.18215, 0.13025),
        ("LatentConsistencyModelPipeline", 0.18215, 0.13025),
        ("StableDiffusionXLPipeline", 0.13025, 0.18215),
        ("StableDiffusionXLInpaintPipeline", 0.13025, 0.18215),
    ):
        assert FORMS[name].scaling_notes(own) == FORMS[name].scaling_notes(1.0) == ()  # 1: AutoencoderTiny, of both
        (note,) = FORMS[name].scaling_notes(other)
        assert note.startswith(f"the VAE's scaling_factor is {other}, that of Stable Diffusion")


def test_a_refiner() -> None:
    refuse_refiner({"requires_aesthetics_score": False})
    refuse_refiner({})
    with pytest.raises(CheckpointError, match=r"a refiner, .* is not supported\nexport the base pipeline"):
        refuse_refiner({"requires_aesthetics_score": True})
