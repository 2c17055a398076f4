"""Schedules in config.json: diffusers' own configurations, and what is refused by its name."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

import pytest

from aigc_models.families.schedule_config import FIXED, OPTIONAL, SCHEDULERS, read_schedule
from aigc_runtime.errors import ConfigError
from aigc_runtime.generation.schedules import ScheduleConfig

PLAIN = asdict(ScheduleConfig())


def diffusers_config(name: str, **given: Any) -> dict[str, Any]:
    diffusers = pytest.importorskip("diffusers")
    config: dict[str, Any] = json.loads(getattr(diffusers, name)(**given).to_json_string())
    # Infinity is no JSON; diffusers writes it all the same.
    return {key: value for key, value in config.items() if key != "lambda_min_clipped"}


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
def test_what_diffusers_writes_is_read(name: str) -> None:
    config = diffusers_config(name, beta_schedule="scaled_linear", prediction_type="sample", clip_sample_range=2.0)
    assert read_schedule(config) == ScheduleConfig(
        beta_schedule="scaled_linear", prediction_type="sample", clip_sample_range=2.0
    )


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_field_of_the_schedulers_is_known(name: str) -> None:
    known = {f.name for f in fields(ScheduleConfig)} | FIXED.keys() | {"_class_name", "_diffusers_version"}
    found = diffusers_config(name)
    assert found.keys() <= known
    clipping = {"clip_sample": False, "clip_sample_range": 1.0}  # which two of them have not
    assert read_schedule({**clipping, **found, "clip_sample": False}).clip_sample is False


def test_the_later_fields_may_be_missing_or_null() -> None:
    assert read_schedule({k: v for k, v in PLAIN.items() if k not in OPTIONAL}) == ScheduleConfig()
    assert read_schedule({**PLAIN, **dict.fromkeys(OPTIONAL)}) == ScheduleConfig()
    assert read_schedule({**PLAIN, "variance_type": "learned_range"}).learns_variance


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"set_alpha_to_one": False}, "schedule.set_alpha_to_one is False\nonly True is supported"),
        (
            {"trained_betas": [0.1, 0.2]},
            r"trained_betas has 2 numbers, num_train_timesteps is 1,000\none for every step",
        ),
        ({"use_karras_sigmas": True}, "schedule.use_karras_sigmas is True\nonly False"),
        ({"use_karras_sigmas": 0}, "schedule.use_karras_sigmas is 0"),
        ({"final_sigmas_type": "sigma_min"}, "schedule.final_sigmas_type is 'sigma_min'"),
        ({"algorithm_type": "sde-dpmsolver++"}, "schedule.algorithm_type is"),
        ({"clip_samples": True}, "schedule.clip_samples is not a known field\ndid you mean 'clip_sample'"),
        ({"_class_name": "PNDMScheduler"}, "schedule._class_name is 'PNDMScheduler'\nsupported: DDPM"),
        ({"variance_type": "fixed_large_log"}, "schedule.variance_type is 'fixed_large_log'"),
        ({"prediction_type": "flow_prediction"}, "schedule.prediction_type is 'flow_prediction'"),
        ({"clip_sample": None}, "schedule.clip_sample is null"),
    ],
)
def test_what_is_not_done_is_refused_by_its_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_schedule({**PLAIN, **change})


def test_all_missing_fields_are_told_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"config.json: schedule lacks num_train_timesteps, beta_start, clip_sample\n"
    ):
        read_schedule({k: v for k, v in PLAIN.items() if k not in ("clip_sample", "beta_start", "num_train_timesteps")})
    with pytest.raises(ConfigError, match="schedule is a list"):
        read_schedule([])
