"""Settings of the pipeline from text to pictures: they survive a manifest, and what no request could use is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from aigc_runtime.errors import BundleError, ConfigError, UnknownNameError
from aigc_runtime.generation.samplers import SamplerConfig
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.io.jsonable import from_json, to_json
from aigc_runtime.pipelines.text_to_image_settings import PromptInfo, TextToImageSettings

SETTINGS = TextToImageSettings(
    schedule=ScheduleConfig(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
    ),
    latent_channels=4,
    latent_size=(64, 64),
    latent_scale=8,
    scaling_factor=0.18215,
    tokenizer=TokenizerInfo(kind="huggingface", file="tokenizer.json"),
    vocab_size=49408,
    pad_token_id=49407,
    default_sampler="pndm",
    sampler_config=SamplerConfig(follows="diffusers", set_alpha_to_one=False),
    default_steps=50,
    default_guidance_scale=7.5,
)


def test_settings_survive_the_json_of_a_manifest() -> None:
    document = json.loads(json.dumps(to_json(SETTINGS)))
    assert from_json(TextToImageSettings, document, where="$") == SETTINGS
    with pytest.raises(BundleError, match="latent_scale"):
        from_json(TextToImageSettings, {**document, "latent_scale": 8.5}, where="$")
    with pytest.raises(BundleError, match="clip_skip"):
        from_json(TextToImageSettings, {**document, "clip_skip": 1}, where="$")


def test_a_second_text_encoder_has_a_tokenizer_of_its_own() -> None:
    info = PromptInfo(tokenizer=TokenizerInfo(kind="huggingface", file="b.json"), vocab_size=9, pad_token_id=0)
    both = replace(SETTINGS, second=info)
    assert from_json(TextToImageSettings, json.loads(json.dumps(to_json(both))), where="$") == both
    assert (SETTINGS.tokenizer_files, both.tokenizer_files) == (("tokenizer.json",), ("tokenizer.json", "b.json"))
    with pytest.raises(ConfigError, match="pad_token_id is 9"):
        replace(info, pad_token_id=9)


def test_sizes_follow_from_the_latents() -> None:
    assert SETTINGS.size == (512, 512)
    assert SETTINGS.latent_shape == (4, 64, 64)
    assert SETTINGS.unet_channels == 4
    assert replace(SETTINGS, takes_picture=True).unet_channels == 9
    assert replace(SETTINGS, latent_size=(96, 64)).size == (768, 512)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_channels": 0}, r"latents of \[0, 64, 64\]"),
        ({"latent_size": (64, 0)}, r"latents of \[4, 64, 0\]"),
        ({"latent_size": (2**20, 2**20)}, "at most 16,777,216"),
        ({"latent_scale": 0}, "latent_scale is 0"),
        ({"latent_scale": 65}, "latent_scale is 65"),
        ({"scaling_factor": 0.0}, "scaling_factor is 0"),
        ({"scaling_factor": float("nan")}, "scaling_factor is nan"),
        ({"shift_factor": float("inf")}, "shift_factor is inf"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"prompt_tokens": 0}, "prompt_tokens is 0"),
        ({"prompt_tokens": 4097}, "prompt_tokens is 4,097"),
        ({"pad_token_id": 49408}, "pad_token_id is 49,408"),
        ({"default_sampler": "magic"}, "default_sampler is 'magic'"),
        ({"default_steps": 0}, "default_steps is 0"),
        ({"default_guidance_scale": -1.0}, "default_guidance_scale is -1"),
        ({"sampler_config": SamplerConfig(solver_order=3)}, "no option 'solver_order'"),
        ({"schedule": replace(SETTINGS.schedule, variance_type="learned")}, "variance_type is 'learned'"),
    ],
)
def test_what_no_request_could_use_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, UnknownNameError)) as caught:
        replace(SETTINGS, **change)
    assert re.search(message, str(caught.value))
