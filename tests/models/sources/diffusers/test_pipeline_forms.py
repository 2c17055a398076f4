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


def test_a_refiner() -> None:
    refuse_refiner({"requires_aesthetics_score": False})
    refuse_refiner({})
    with pytest.raises(CheckpointError, match=r"a refiner, .* is not supported\nexport the base pipeline"):
        refuse_refiner({"requires_aesthetics_score": True})
