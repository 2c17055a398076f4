"""diffusers' schedulers against ours: the configuration that each writes, one model, one noise, its own steps.

The reference is diffusers as it is, in float32. The model is the best one of Gaussian data, bent by a sine so that no
algorithm solves it exactly, and looks at the timestep that it is given.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from aigc_models.sources.diffusers.scheduler import SCHEDULERS, ReadScheduler, read_scheduler
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import CheckpointError, InputError
from aigc_runtime.generation.samplers import SAMPLERS, Prediction, SamplerConfig, predict, sample
from aigc_runtime.generation.schedules import alphas_cumprod

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

TOLERANCE = 1e-4  # of the largest value: float32 on both sides, diffusers' tables included
FEW_STEPS_TOLERANCE = 4e-4
"""Where the noise is extrapolated over at most five steps: x_0 = (x - sigma eps) / alpha magnifies its rounding."""
SHAPE = (2, 3, 4, 4)
STEPS, FEW = (1, 2, 5, 20, 50), (2, 20)
MEAN, DEVIATION = 0.2, 0.6
V = {"prediction_type": "v_prediction"}
SAMPLE = {"prediction_type": "sample"}
COSINE = {"beta_schedule": "squaredcos_cap_v2", **V}
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
ZERO = {"rescale_betas_zero_snr": True, **V}
THRESHOLD = {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9}
SPACINGS: list[dict[str, Any]] = [
    {"timestep_spacing": "leading"},
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"timestep_spacing": "linspace"},
    {"timestep_spacing": "trailing"},
]
TRAINED = {"trained_betas": [float(b) for b in np.geomspace(2e-4, 3e-2, 1000)]}
SDE = {"algorithm_type": "sde-dpmsolver++"}
KARRAS = {"use_karras_sigmas": True}
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "DDPM": [
        *SPACINGS,
        V,
        SAMPLE,
        COSINE,
        SCALED,
        TRAINED,
        ZERO,
        THRESHOLD,
        {"clip_sample": False},
        {"clip_sample_range": 0.6},
        {"variance_type": "fixed_small_log"},
        {"variance_type": "fixed_large"},
        {"variance_type": "fixed_large", "timestep_spacing": "trailing"},
        {"variance_type": "learned"},
        {"variance_type": "learned_range"},
        {"variance_type": "learned_range", "timestep_spacing": "trailing"},
    ],
    "DDIM": [
        *SPACINGS,
        V,
        SAMPLE,
        COSINE,
        SCALED,
        TRAINED,
        ZERO,
        THRESHOLD,
        {"clip_sample": False, "set_alpha_to_one": False},
        {"clip_sample": False, "set_alpha_to_one": False, **SCALED, "steps_offset": 1},
    ],
    "PNDM": [
        *({**spacing, "skip_prk_steps": skip} for spacing in SPACINGS for skip in (True, False)),
        {**V, "skip_prk_steps": True},
        V,
        {**SCALED, "skip_prk_steps": True, "set_alpha_to_one": True},
        {**COSINE, "skip_prk_steps": True},
        TRAINED,
    ],
    "LMSDiscrete": [*SPACINGS, V, SAMPLE, COSINE, SCALED, KARRAS, {**KARRAS, "timestep_spacing": "trailing"}],
    "EulerDiscrete": [
        *SPACINGS,
        V,
        SAMPLE,
        COSINE,
        SCALED,
        TRAINED,
        ZERO,
        {**ZERO, "timestep_spacing": "trailing"},
        KARRAS,
        {**KARRAS, **SIGMA_MIN},
        SIGMA_MIN,
        {**SIGMA_MIN, "timestep_spacing": "leading"},
        {"interpolation_type": "log_linear"},
        {"interpolation_type": "log_linear", **KARRAS},
        {"timestep_type": "continuous", **V},
    ],
    "EulerAncestralDiscrete": [*SPACINGS, V, COSINE, SCALED, {**ZERO, "timestep_spacing": "trailing"}],
    "HeunDiscrete": [*SPACINGS, V, SAMPLE, COSINE, KARRAS, {"clip_sample": True, "clip_sample_range": 0.5}],
    "DPMSolverMultistep": [
        *({**spacing, "solver_order": order} for spacing in SPACINGS for order in (1, 2, 3)),
        *({**SDE, "solver_order": order} for order in (1, 2, 3)),
        {**SDE, "solver_type": "heun"},
        {"solver_type": "heun"},
        {"solver_type": "heun", "timestep_spacing": "trailing"},
        {"euler_at_final": True, **SIGMA_MIN},
        *({"lower_order_final": False, **SIGMA_MIN, "solver_order": order} for order in (2, 3)),
        {**SIGMA_MIN, "solver_order": 3},
        *({**KARRAS, "solver_order": order} for order in (1, 2, 3)),
        {**KARRAS, **SDE},
        {**KARRAS, **SIGMA_MIN},
        {**COSINE, "lambda_min_clipped": -5.1},
        {**COSINE, **KARRAS},
        {**THRESHOLD, "solver_order": 3},
        {**V, "solver_order": 3},
        SAMPLE,
        {"variance_type": "learned_range"},
        {**ZERO, "timestep_spacing": "trailing"},
        {**SDE, **ZERO, "timestep_spacing": "trailing"},
        {"solver_type": "bh2"},
        TRAINED,
    ],
    "UniPCMultistep": [
        *({**spacing, "solver_order": order} for spacing in SPACINGS for order in (1, 2, 3)),
        {"solver_type": "bh1", **SIGMA_MIN},  # with `zero` diffusers gives NaN
        {"solver_type": "bh1", "solver_order": 3, **SIGMA_MIN},
        {"predict_x0": False, **SIGMA_MIN},
        {"predict_x0": False, **SIGMA_MIN, "solver_order": 3, **V},
        {"disable_corrector": [0, 1]},
        {"lower_order_final": False, **SIGMA_MIN, "solver_order": 3},
        {**KARRAS, "solver_order": 3},
        THRESHOLD,
        V,
        SAMPLE,
        {**ZERO, "timestep_spacing": "trailing"},
        {"solver_type": "midpoint"},
    ],
    "LCM": [
        {},
        V,
        SAMPLE,
        {"original_inference_steps": 100, "timestep_scaling": 3.0},
        {"clip_sample": True, "clip_sample_range": 0.8},
        {**THRESHOLD, **ZERO},
        {"beta_schedule": "linear", "beta_end": 0.02},
    ],
}
CASES = [(name, options) for name, cases in OPTIONS.items() for options in cases]


class Doubled:
    """A module whose float32 is float64."""

    def __init__(self, module: Any) -> None:
        self.module, self.float32 = module, module.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


def written(name: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A scheduler, and its configuration as it writes it."""
    scheduler = getattr(diffusers, f"{name}Scheduler")(**options)
    return scheduler, json.loads(scheduler.to_json_string().replace("-Infinity", "null"))


def model(read: ReadScheduler) -> Callable[[Any, float], Any]:
    """(x, timestep) -> the prediction, of numpy and torch alike; timesteps may lie between two training steps."""
    a = alphas_cumprod(read.schedule)
    log_s = 0.5 * np.log((1 - a) / np.maximum(a, 2.0**-24))
    kind = read.schedule.prediction_type

    def output(x: Any, t: float) -> Any:
        if read.config.timestep_type == "continuous" and kind == "v_prediction":
            s = float(np.exp(4 * t))
        else:
            s = float(np.exp(np.interp(t, np.arange(len(a)), log_s)))
        alpha = 1 / np.sqrt(1 + s * s)
        sigma = s * alpha
        variance = alpha**2 * DEVIATION**2 + sigma**2
        wave = 0.05 * alpha * sigma * (np if isinstance(x, np.ndarray) else torch).sin(4 * x)
        centered = x - float(alpha * MEAN)
        x0 = MEAN + centered * float(alpha * DEVIATION**2 / variance) - wave * float(sigma)
        eps = centered * float(sigma / variance) + wave * float(alpha)
        given = {"epsilon": eps, "sample": x0, "v_prediction": float(alpha) * eps - float(sigma) * x0}[kind]
        if not read.schedule.learns_variance:
            return given
        about = x * x * 0.02 + 0.001 if read.schedule.variance_type == "learned" else x * 0.3
        return np.concatenate([given, about], 1) if isinstance(x, np.ndarray) else torch.cat([given, about], 1)

    return output


def draws() -> Callable[..., Array]:
    rng = np.random.default_rng(3)
    return lambda *_, **__: rng.standard_normal(SHAPE, dtype=np.float32)


def ours(read: ReadScheduler, steps: int) -> Array:
    noise, output = draws(), model(read)
    levels = SAMPLERS[read.sampler].levels(read.schedule, read.config, steps)

    def denoise(x: Array, i: int) -> Prediction:
        out = output(x, float(np.float32(levels.timesteps[i]))).astype(np.float32)
        return predict(out, x, float(levels.alpha[i]), float(levels.sigma[i]), read.schedule)

    found = list(sample(read.sampler, denoise, noise(), levels, noise, read.config))
    assert len(found) == levels.steps
    assert found[-1].dtype == np.float32
    return found[-1]


def theirs(scheduler: Any, read: ReadScheduler, steps: int, monkeypatch: pytest.MonkeyPatch, dtype: Any) -> Array:
    noise, output = draws(), model(read)
    module = importlib.import_module(type(scheduler).__module__)
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: torch.from_numpy(noise()).to(dtype))
    x = torch.from_numpy(noise()).to(dtype)
    scheduler.set_timesteps(steps)
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        given = output(scheduler.scale_model_input(x, t), float(t))
        # DPM-Solver++ alone cuts the half about the variance off by itself, and DDPM uses it.
        x = scheduler.step(given, t, x).prev_sample
    result: Array = x.numpy()
    return result


def difference(a: Array, b: Array) -> float:
    return float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))


@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
def test_a_scheduler_gives_diffusers_numbers(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where hardly any signal is left, diffusers' samples, as large as sigma / alpha, are too coarse in float32.
    double = bool(options.keys() & {"rescale_betas_zero_snr", "predict_x0"} or COSINE.items() <= options.items())
    if double:
        for kind in ("torch", "np"):
            module = importlib.import_module(getattr(diffusers, f"{name}Scheduler").__module__)
            monkeypatch.setattr(module, kind, Doubled(getattr(module, kind)))
    for steps in STEPS if options in (*SPACINGS, {}) else FEW:
        scheduler, config = written(name, options)
        read = read_scheduler(config)
        if not read.config.skip_prk_steps and steps < 4:
            with pytest.raises(InputError, match="Runge-Kutta"):
                ours(read, steps)
            continue
        found = ours(read, steps)
        expected = theirs(scheduler, read, steps, monkeypatch, torch.float64 if double else torch.float32)
        extrapolates_noise = read.sampler == "pndm" or not read.config.predict_x0
        limit = FEW_STEPS_TOLERANCE if extrapolates_noise and steps <= 5 else TOLERANCE
        assert difference(found, expected) <= limit, f"{steps} steps"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("DDIM", {"beta_end": 0.021}),
        ("DDIM", {"timestep_spacing": "trailing"}),
        ("DDIM", {"clip_sample_range": 0.5}),
        ("DDPM", {"variance_type": "fixed_large"}),
        ("EulerDiscrete", {"use_karras_sigmas": True}),
        ("EulerDiscrete", {"timestep_spacing": "leading"}),
        ("DPMSolverMultistep", {"solver_order": 3}),
        ("DPMSolverMultistep", {"solver_type": "heun"}),
        ("DPMSolverMultistep", {"euler_at_final": True, "final_sigmas_type": "sigma_min"}),
        ("UniPCMultistep", {"solver_order": 1}),
        ("UniPCMultistep", {"disable_corrector": [0, 1, 2]}),
        ("PNDM", {"skip_prk_steps": True}),
        ("LCM", {"original_inference_steps": 30}),
        ("LCM", {"timestep_scaling": 0.01}),
    ],
)
def test_the_comparison_sees_a_change(name: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, config = written(name, {})
    scheduler, _ = written(name, changes)
    read = read_scheduler(config)
    assert difference(ours(read, 10), theirs(scheduler, read, 10, monkeypatch, torch.float32)) > 2 * TOLERANCE


def test_the_third_order_sde_of_the_paper_is_not_that_of_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose last term has the wrong sign; a user's own choice of the sampler follows the paper."""
    scheduler, config = written("DPMSolverMultistep", {**SDE, "solver_order": 3, "timestep_spacing": "trailing"})
    read = read_scheduler(config)
    paper = ReadScheduler(schedule=read.schedule, sampler=read.sampler, config=SamplerConfig())
    theirs_ = theirs(scheduler, read, 20, monkeypatch, torch.float32)
    assert difference(ours(read, 20), theirs_) <= TOLERANCE < difference(ours(paper, 20), theirs_)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_field_that_diffusers_writes_is_known(name: str) -> None:
    scheduler = getattr(diffusers, name)()
    config = json.loads(scheduler.to_json_string().replace("-Infinity", "null"))
    known = SCHEDULERS[name]
    ours_ = {*known.defaults, *known.fixed, *known.unused}
    theirs_ = {field for field in config if not field.startswith("_")}
    assert theirs_ == ours_
    for field, default in known.defaults.items():
        assert config[field] == (list(default) if isinstance(default, tuple) else default), field


def test_fields_of_another_class_are_passed_over_as_diffusers_does() -> None:
    """As in Stable Diffusion XL's, whose Euler was PNDM once."""
    _, config = written("EulerDiscrete", SCALED)
    left = {"clip_sample": True, "set_alpha_to_one": False, "skip_prk_steps": True, "variance_type": "learned"}
    assert read_scheduler({**config, **left}) == read_scheduler(config)
    assert read_scheduler(config).schedule.clip_sample is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"_class_name": "EDMEulerScheduler"},
            "_class_name is 'EDMEulerScheduler', which is not supported\nsupported: D",
        ),
        ({"_class_name": None}, "_class_name is None, which is not supported"),
        ({"s_churn": 0.5}, "the field 's_churn' is 0.5, and what it means is not known here"),
        ({"beta_shedule": "linear"}, "nearest known: 'beta_schedule'"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'"),
        ({"variance_type": "fixed_large_log"}, "variance_type is 'fixed_large_log'"),
        ({"trained_betas": [0.1]}, "trained_betas has 1 numbers, num_train_timesteps is 1,000"),
        ({"trained_betas": [0.0] * 1000}, r"trained_betas\[0\] is 0.0\nmust be above 0"),
        ({"clip_sample": "yes"}, "clip_sample is a string, expected bool"),
        ({"num_train_timesteps": 1e3}, "num_train_timesteps is the number 1000.0, expected int"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr with prediction_type 'epsilon'"),
        ({"_class_name": "PNDMScheduler", "prediction_type": "sample"}, "prediction_type is 'sample'"),
        (
            {"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": True},
            "use_beta_sigmas is True, which is not supp",
        ),
        ({"_class_name": "EulerDiscreteScheduler", "sigma_max": 80.0}, "sigma_max is 80.0, which is not supported"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "karras"}, "timestep_type is 'karras'"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"},
            "algorithm_type is 'dpmsolver'",
        ),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 4}, "solver_order is 4\nmust be from 1 to 3"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas is True"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_lu_lambdas": True}, "use_lu_lambdas is True"),
        ({"_class_name": "UniPCMultistepScheduler", "solver_order": 4}, "solver_order is 4\nmust be an integer from 1"),
        ({"_class_name": "UniPCMultistepScheduler", "solver_p": {}}, "solver_p is {}, which is not supported"),
        (
            {"_class_name": "UniPCMultistepScheduler", "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
            "the last step of UniPC would go nowhere",
        ),
        ({"_class_name": "LCMScheduler", "original_inference_steps": 0}, "original_inference_steps is 0"),
    ],
)
def test_what_is_not_done_is_refused_by_its_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_scheduler({"_class_name": "DDPMScheduler", **change})
