"""How a sampler runs: options that are refused, alone and with a sampler that has none of that name."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from aigc_runtime.errors import ConfigError
from aigc_runtime.generation.samplers import SAMPLERS, SamplerConfig, check_options
from aigc_runtime.generation.samplers.sampler_config import GRID_OPTIONS
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.io.jsonable import from_json, to_json
from aigc_runtime.pipelines.settings import DiffusionSettings

THEIRS = SamplerConfig(follows="diffusers")


def test_a_configuration_survives_json() -> None:
    config = SamplerConfig(
        follows="diffusers",
        use_karras_sigmas=True,
        disable_corrector=(0, 3),
        solver_type="bh1",
        lambda_min_clipped=-5.1,
    )
    assert from_json(SamplerConfig, json.loads(json.dumps(to_json(config)))) == config
    assert config.changed == {"follows", "use_karras_sigmas", "disable_corrector", "solver_type", "lambda_min_clipped"}
    assert SamplerConfig().changed == set()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"follows": "k-diffusion"}, "follows is 'k-diffusion'\nmust be one of papers, diffusers"),
        ({"eta": 1.5}, "eta is 1.5\nmust be from 0 to 1"),
        ({"eta": float("nan")}, "eta is nan"),
        ({"eta": True}, "eta is True"),
        ({"final_sigmas_type": "none"}, "final_sigmas_type is 'none'"),
        ({"use_karras_sigmas": 1}, "use_karras_sigmas is 1\nmust be one of True, False"),
        ({"solver_type": "midpoints"}, "solver_type is 'midpoints'"),
        ({"solver_order": 4}, "solver_order is 4\nmust be an integer from 1 to 3"),
        ({"solver_order": 2.0}, "solver_order is 2.0"),
        ({"original_inference_steps": 0}, "original_inference_steps is 0"),
        ({"timestep_scaling": 0.0}, "timestep_scaling is 0.0\nmust be above 0"),
        ({"lambda_min_clipped": float("inf")}, "lambda_min_clipped is inf"),
        ({"disable_corrector": (0, -1)}, r"disable_corrector is \(0, -1\)"),
        ({"disable_corrector": [1]}, r"disable_corrector is \[1\]"),
    ],
)
def test_what_makes_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(THEIRS, **change)


@pytest.mark.parametrize("option", GRID_OPTIONS)
def test_the_papers_have_no_options_of_the_levels(option: str) -> None:
    changed: dict[str, Any] = {
        "set_alpha_to_one": False,
        "final_sigmas_type": "sigma_min",
        "use_karras_sigmas": True,
        "interpolation_type": "log_linear",
        "timestep_type": "continuous",
        "lambda_min_clipped": -5.0,
    }
    assert changed.keys() == set(GRID_OPTIONS)
    with pytest.raises(ConfigError, match=f"{option} is .*, and follows is 'papers'"):
        SamplerConfig(**{option: changed[option]})


def test_every_option_is_one_of_a_sampler() -> None:
    known = {option for sampler in SAMPLERS.values() for option in sampler.options}
    assert known == {f.name for f in fields(SamplerConfig)} - {"follows"}


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("ddpm", SamplerConfig(eta=0.5), "sampler 'ddpm' has no option 'eta', which is 0.5\nits options: none"),
        ("ddim", replace(THEIRS, use_karras_sigmas=True), "its options: eta, set_alpha_to_one"),
        ("dpmpp_2m", replace(THEIRS, solver_type="bh1"), "solver_type 'bh1'\nvalid: midpoint, heun"),
        ("unipc", replace(THEIRS, solver_type="heun"), "solver_type 'heun'\nvalid: bh1, bh2"),
    ],
)
def test_options_of_another_sampler(name: str, config: SamplerConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_options(name, config)


def settings(**changes: Any) -> DiffusionSettings:
    given: dict[str, Any] = {
        "schedule": ScheduleConfig(),
        "sample_shape": (1, 4, 4),
        "num_classes": None,
        "null_class": None,
        "default_sampler": "ddim",
        "default_steps": 10,
        "default_guidance_scale": 1.0,
    }
    return DiffusionSettings(**{**given, **changes})


def test_the_settings_of_a_bundle_are_checked() -> None:
    assert settings().sampler_config == SamplerConfig()
    with pytest.raises(ConfigError, match="sampler 'ddim' has no option 'use_karras_sigmas'"):
        settings(sampler_config=replace(THEIRS, use_karras_sigmas=True))
    with pytest.raises(ConfigError, match="default_steps is 3: steps is 3, and 3 are Runge-Kutta's\nuse at least 4"):
        settings(default_sampler="pndm", sampler_config=SamplerConfig(skip_prk_steps=False), default_steps=3)
    assert settings(default_sampler="lcm", sampler_config=SamplerConfig(original_inference_steps=5), default_steps=4)
    with pytest.raises(ConfigError, match="this model was distilled on 5 steps"):
        settings(default_sampler="lcm", sampler_config=SamplerConfig(original_inference_steps=5))
