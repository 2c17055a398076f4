"""Noise schedules against the papers' definitions, in plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.generation.schedules import ScheduleConfig, alphas_cumprod, make_levels, timesteps


def products(betas: list[float]) -> list[float]:
    out, total = [], 1.0
    for beta in betas:
        total *= 1 - beta
        out.append(total)
    return out


def linear(n: int) -> list[float]:
    return products([1e-4 + (0.02 - 1e-4) * i / (n - 1) for i in range(n)])


def scaled(n: int) -> list[float]:
    low, high = math.sqrt(1e-4), math.sqrt(0.02)
    return products([(low + (high - low) * i / (n - 1)) ** 2 for i in range(n)])


def cosine(n: int) -> list[float]:
    def f(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    return products([min(1 - f((i + 1) / n) / f(i / n), 0.999) for i in range(n)])


@pytest.mark.parametrize(("name", "expected"), [("linear", linear), ("scaled_linear", scaled)])
@pytest.mark.parametrize("n", [2, 100, 1000])
def test_alpha_bar_of_the_linear_schedules(name: Any, expected: Any, n: int) -> None:
    a = alphas_cumprod(ScheduleConfig(num_train_timesteps=n, beta_schedule=name))
    assert a.dtype == np.float64
    np.testing.assert_allclose(a, expected(n), rtol=1e-12)


@pytest.mark.parametrize("n", [10, 1000])
def test_alpha_bar_of_the_cosine_schedule(n: int) -> None:
    a = alphas_cumprod(ScheduleConfig(num_train_timesteps=n, beta_schedule="squaredcos_cap_v2"))
    np.testing.assert_allclose(a, cosine(n), rtol=1e-9)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_zero_terminal_snr_keeps_the_first_step_and_loses_the_last(name: Any) -> None:
    plain = ScheduleConfig(beta_schedule=name, prediction_type="v_prediction")
    zero = ScheduleConfig(beta_schedule=name, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    before, after = alphas_cumprod(plain), alphas_cumprod(zero)
    assert after[-1] == 0.0
    assert after[0] == pytest.approx(before[0], rel=1e-12)
    assert np.all(np.diff(after) < 0)
    # Lin 2023, algorithm 1, shifts and scales the square roots.
    slope = np.diff(np.sqrt(after)) / np.diff(np.sqrt(before))
    np.testing.assert_allclose(slope, slope[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("spacing", "steps", "expected"),
    [
        ("leading", 5, [800, 600, 400, 200, 0]),
        ("trailing", 5, [999, 799, 599, 399, 199]),
        ("linspace", 5, [999, 749, 500, 250, 0]),
        ("trailing", 1, [999]),
        ("leading", 1, [0]),
        ("linspace", 1, [0]),
        ("trailing", 3, [999, 666, 332]),
        ("leading", 3, [666, 333, 0]),
    ],
)
def test_visited_steps(spacing: Any, steps: int, expected: list[int]) -> None:
    found = timesteps(ScheduleConfig(timestep_spacing=spacing), steps)
    assert found.dtype == np.int64
    assert found.tolist() == expected


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("total", [1, 7, 100, 1000])
def test_every_number_of_steps_gives_that_many_descending_ones(spacing: Any, total: int) -> None:
    config = ScheduleConfig(num_train_timesteps=total, timestep_spacing=spacing)
    for steps in range(1, total + 1):
        t = timesteps(config, steps)
        assert len(t) == steps
        assert t[-1] >= 0
        assert t[0] < total
        assert np.all(np.diff(t) < 0)
    np.testing.assert_array_equal(timesteps(config, total), np.arange(total)[::-1])


def test_the_offset_moves_leading_steps_and_may_not_leave_the_range() -> None:
    config = ScheduleConfig(timestep_spacing="leading", steps_offset=1)
    assert timesteps(config, 5).tolist() == [801, 601, 401, 201, 1]
    with pytest.raises(InputError, match=r"with steps_offset 1 the first would be step 1000 of 1000\nuse fewer steps"):
        timesteps(config, 1000)


@pytest.mark.parametrize("steps", [0, -1, 1001, True, 2.0, "4", None])
def test_bad_numbers_of_steps(steps: Any) -> None:
    with pytest.raises(InputError, match=r"steps is .*\nmust be an integer from 1 to 1000"):
        timesteps(ScheduleConfig(), steps)


def test_levels_end_clean() -> None:
    levels = make_levels(ScheduleConfig(), 4)
    assert levels.alpha.shape == levels.sigma.shape == (5,)
    np.testing.assert_allclose(levels.alpha**2 + levels.sigma**2, 1.0, rtol=1e-15)
    assert (levels.alpha[-1], levels.sigma[-1]) == (1.0, 0.0)
    np.testing.assert_array_equal(levels.alpha[:-1] ** 2, make_levels(ScheduleConfig(), 4).alpha[:-1] ** 2)
    np.testing.assert_allclose(levels.alpha[:-1] ** 2, alphas_cumprod(ScheduleConfig())[levels.timesteps])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta_schedule": "sigmoid"}, r"beta_schedule is 'sigmoid'\nvalid: linear"),
        ({"prediction_type": "flow_prediction"}, "prediction_type is 'flow_prediction'"),
        ({"variance_type": "fixed_large_log"}, r"variance_type is 'fixed_large_log'\nvalid: fixed_small"),
        ({"thresholding": 1}, "thresholding is 1"),
        ({"dynamic_thresholding_ratio": 0.0}, r"dynamic_thresholding_ratio is 0.0\nmust be above 0 and at most 1"),
        ({"dynamic_thresholding_ratio": math.nan}, "dynamic_thresholding_ratio is nan"),
        ({"sample_max_value": 0.5}, r"sample_max_value is 0.5\nmust be from 1"),
        ({"clip_sample_range": "1"}, "clip_sample_range is '1'"),
        ({"timestep_spacing": "karras"}, "timestep_spacing is 'karras'"),
        ({"clip_sample": 1}, "clip_sample is 1"),
        ({"rescale_betas_zero_snr": None}, "rescale_betas_zero_snr is None"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ({"num_train_timesteps": 10.0}, "num_train_timesteps is 10.0"),
        ({"num_train_timesteps": 10**7}, "must be an integer from 1 to 1000000"),
        ({"steps_offset": -1}, "steps_offset is -1"),
        ({"beta_start": 0.0}, "need 0 < beta_start"),
        ({"beta_start": 0.1}, "need 0 < beta_start"),
        ({"beta_end": 1.0}, "need 0 < beta_start"),
        ({"beta_end": math.nan}, "need 0 < beta_start"),
        ({"clip_sample_range": 0.0}, "clip_sample_range is 0.0"),
        ({"clip_sample_range": math.inf}, "clip_sample_range is inf"),
        ({"rescale_betas_zero_snr": True}, "train with 'v_prediction'"),
        (
            {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "num_train_timesteps": 1},
            "with one training step",
        ),
        ({"beta_start": 1e-300, "beta_end": 1e-300}, "step 0 adds no noise"),
        ({"beta_end": 0.999, "num_train_timesteps": 100_000, "prediction_type": "v_prediction"}, "adds no noise"),
        ({"beta_end": 0.5, "num_train_timesteps": 1000}, "hardly any signal is left"),
    ],
)
def test_schedules_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScheduleConfig(**change)
