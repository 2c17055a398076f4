"""Levels in closed form: Karras' spacing, predecessors, the first noise, and numbers of steps that cannot be.

What diffusers visits is compared with it in tests/models/sources/diffusers/test_scheduler.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.generation.samplers import SAMPLERS, SamplerConfig, fitting_steps
from aigc_runtime.generation.samplers.levels import distilled, fractional, inner, strided
from aigc_runtime.generation.schedules import ScheduleConfig, alphas_cumprod, make_levels

PLAIN = ScheduleConfig(clip_sample=False)
THEIRS = SamplerConfig(follows="diffusers")


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - {"lcm", "pndm"}))
def test_the_papers_levels_are_the_same_for_all(name: str) -> None:
    found, expected = SAMPLERS[name].levels(PLAIN, SamplerConfig(), 7), make_levels(PLAIN, 7)
    np.testing.assert_array_equal(found.alpha, expected.alpha)
    np.testing.assert_array_equal(found.timesteps, expected.timesteps)
    assert (found.goal, found.first_noise, found.last_scale) == (None, 1.0, 1.0)


@pytest.mark.parametrize("levels", [inner, fractional])
def test_karras_levels_are_even_in_the_seventh_root(levels: Any) -> None:
    found = levels(replace(PLAIN, timestep_spacing="linspace"), replace(THEIRS, use_karras_sigmas=True), 9)
    s = found.sigma[:-1] / found.alpha[:-1]
    np.testing.assert_allclose(np.diff(s ** (1 / 7), 2), 0, atol=1e-9)
    a = alphas_cumprod(PLAIN)
    assert s[0] == pytest.approx(math.sqrt(1 / a[-1] - 1))
    assert s[-1] == pytest.approx(math.sqrt(1 / a[0] - 1))
    np.testing.assert_allclose(found.alpha**2 + found.sigma**2, 1)
    assert found.sigma[-1] == 0


def test_a_step_that_is_not_visited_can_be_the_predecessor() -> None:
    found = strided(replace(PLAIN, timestep_spacing="linspace"), replace(THEIRS, set_alpha_to_one=False), 4)
    a = alphas_cumprod(PLAIN)
    assert found.timesteps.tolist() == [999, 666, 333, 0]
    assert found.goal is not None
    np.testing.assert_allclose(found.goal**2, [a[749], a[416], a[83], a[0]])


def test_the_first_noise_of_the_samplers_in_sigma() -> None:
    for spacing, expected in (("leading", 1.0), ("linspace", math.sqrt(1 - alphas_cumprod(PLAIN)[-1]))):
        found = fractional(replace(PLAIN, timestep_spacing=spacing), THEIRS, 5)  # type: ignore[arg-type]
        assert found.first_noise == pytest.approx(expected)
        assert found.last_scale == 1.0
    cut = fractional(PLAIN, replace(THEIRS, final_sigmas_type="sigma_min"), 5)
    assert cut.last_scale == pytest.approx(1 / cut.alpha[-1])
    assert cut.alpha[-1] ** 2 == pytest.approx(alphas_cumprod(PLAIN)[0])


def test_steps_between_training_steps() -> None:
    found = fractional(replace(PLAIN, timestep_spacing="linspace"), THEIRS, 5)
    np.testing.assert_allclose(found.timesteps, [999, 749.25, 499.5, 249.75, 0])


def test_a_consistency_model_visits_what_it_was_distilled_on() -> None:
    found = distilled(PLAIN, replace(THEIRS, original_inference_steps=50), 4)
    assert found.timesteps.tolist() == [999, 759, 499, 259]


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_numbers_of_steps_that_cannot_be(name: str, steps: Any) -> None:
    for config in (SamplerConfig(), THEIRS):
        with pytest.raises(InputError, match="steps is"):
            SAMPLERS[name].levels(PLAIN, config, steps)


def test_more_steps_than_a_sampler_can_lay_out() -> None:
    with pytest.raises(InputError, match="steps is 1000: this sampler lays out 1001 of 1000 training steps"):
        inner(PLAIN, THEIRS, 1000)
    with pytest.raises(InputError, match="steps is 5\nthis model was distilled on 4 steps"):
        distilled(PLAIN, replace(THEIRS, original_inference_steps=4), 5)


def test_the_most_steps_that_fit() -> None:
    assert fitting_steps(PLAIN, 20) == 20
    assert fitting_steps(replace(PLAIN, num_train_timesteps=10), 20, "dpmpp_2m", THEIRS) == 9
    assert fitting_steps(PLAIN, 20, "lcm", replace(THEIRS, original_inference_steps=4)) == 4
    with pytest.raises(ConfigError, match="sampler 'pndm' cannot run on this schedule in 3 steps or fewer"):
        fitting_steps(PLAIN, 3, "pndm", replace(THEIRS, skip_prk_steps=False))
