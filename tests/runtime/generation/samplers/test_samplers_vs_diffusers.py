"""The samplers against diffusers' schedulers, side by side: the same model, the same steps, the same noise.

The reference computes in float64 (`diffusers_reference`), so that what remains is this product's own float32 rounding.
One test runs diffusers as it is, with its own steps.

Differences that a comparison has to step over:

1. DDIM takes t - T // steps as a step's predecessor, even where the visited steps are others.
2. DPM-Solver++ spaces `leading` and `linspace` in its own way: it gets the steps of this product.
3. At zero terminal SNR, DPM-Solver++ and Euler put alpha-bar = 2^-24 in place of 0: so do the levels given here.
4. DPM-Solver++ and Euler do not clip: their model is one whose x_0 is clipped already.
5. Euler's sample is x / alpha.
6. DDIM with eta 1 at zero terminal SNR takes the root of a rounding error below zero: NaN. 0.99 stands for it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.samplers import Prediction, SamplerConfig, predict, sample
from aigc_runtime.generation.schedules import Levels, ScheduleConfig, alphas_cumprod, make_levels

from ...diffusers_reference import CLASSES, VisitedPredecessor, make_scheduler, torch, use_double

# diffusers turns tensors into arrays in a way that numpy 2 announces the end of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

TOLERANCE = 5e-6  # of the largest value: float32 rounding over up to 50 steps
EPSILON_ROUNDING = 3 * 2.0**-23  # x_0 = (x - sigma eps) / alpha: eps, sigma and the product are rounded, |x| < 4
STOCK_TOLERANCE = 5e-5  # diffusers in float32, as it is

SHAPE = (2, 1, 4, 4)
MEAN, DEVIATION = 0.4, 0.7  # of the data that the model knows; wide enough that x_0 is clipped in places
STEPS = (1, 2, 7, 20, 50)

Model = Callable[[Any, float, float], Any]
Noise = Callable[[tuple[int, ...]], Array]


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gaussian_model(config: ScheduleConfig, *, clipped: bool = False) -> Model:
    """The best model of data N(MEAN, DEVIATION^2), for numpy and torch: output = model(x, alpha, sigma).

    E[x_0 | x] = m + alpha s^2 (x - alpha m) / (alpha^2 s^2 + sigma^2). `clipped` is a model that knows the range.
    """

    def model(x: Any, alpha: float, sigma: float) -> Any:
        x0 = MEAN + (x - alpha * MEAN) * (alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2))
        if clipped:
            x0 = x0.clip(-config.clip_sample_range, config.clip_sample_range)
        elif config.prediction_type == "epsilon":  # without the cancellation of the general form below
            return (x - alpha * MEAN) * (sigma / (alpha**2 * DEVIATION**2 + sigma**2))
        eps = (x - alpha * x0) / sigma
        return eps if config.prediction_type == "epsilon" else alpha * eps - sigma * x0

    return model


def draw(seed: int) -> Noise:
    rng = np.random.default_rng(seed)
    return lambda shape: rng.standard_normal(shape, dtype=np.float32)


def run_ours(name: str, config: ScheduleConfig, levels: Levels, eta: float) -> Array:
    model = gaussian_model(config)

    def denoise(x: Array, step: int) -> Prediction:
        alpha, sigma = float(levels.alpha[step]), float(levels.sigma[step])
        return predict(model(x, alpha, sigma), x, alpha, sigma, config)

    start = draw(0)(SHAPE)
    for x in sample(name, denoise, start, levels, draw(1), SamplerConfig(eta=eta)):
        assert x.dtype == np.float32
        assert np.isfinite(x).all()
    return x


def run_theirs(
    name: str,
    config: ScheduleConfig,
    levels: Levels,
    eta: float,
    monkeypatch: pytest.MonkeyPatch,
    *,
    dtype: Any,
    own_steps: bool = False,
) -> Array:
    scheduler = make_scheduler(name, config)
    if own_steps or name == "ddim":
        scheduler.set_timesteps(len(levels.timesteps))
    else:
        scheduler.set_timesteps(timesteps=levels.timesteps.tolist())
    if own_steps:
        assert scheduler.timesteps.tolist() == levels.timesteps.tolist()
    noise = draw(1)
    model = gaussian_model(config, clipped=config.clip_sample and name in ("dpmpp_2m", "euler"))
    x = torch.from_numpy(draw(0)(SHAPE)).to(dtype)
    if name == "euler":
        x = x * torch.sqrt(scheduler.sigmas[0] ** 2 + 1)
    for i, t in enumerate(levels.timesteps.tolist()):
        last = i + 1 == len(levels.timesteps)
        # No noise is left after the last step. diffusers draws some and multiplies it by (nearly) nothing.
        fresh = torch.zeros(SHAPE, dtype=dtype) if last else None
        step = torch.tensor(float(t)) if name == "euler" else torch.tensor(t)
        output = model(scheduler.scale_model_input(x, step), float(levels.alpha[i]), float(levels.sigma[i]))
        if name == "ddim":
            if not own_steps:
                scheduler.num_inference_steps = VisitedPredecessor(t + 1 if last else t - int(levels.timesteps[i + 1]))
            if eta and fresh is None:
                fresh = torch.from_numpy(noise(SHAPE)).to(dtype)
            x = scheduler.step(output, t, x, eta=eta, variance_noise=fresh if eta else None).prev_sample
        elif name == "ddpm":
            given = fresh if fresh is not None else torch.from_numpy(noise(SHAPE)).to(dtype)
            with monkeypatch.context() as patch:
                patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, given=given, **__: given)
                x = scheduler.step(output, t, x).prev_sample
        else:
            x = scheduler.step(output, step, x).prev_sample
        assert x.dtype == dtype
    result: Array = x.numpy()
    return result


def levels_of_diffusers(name: str, config: ScheduleConfig, steps: int) -> Levels:
    """The levels of a run, with diffusers' stand-in for an alpha-bar of 0."""
    levels = make_levels(config, steps)
    if name not in ("dpmpp_2m", "euler"):
        return levels
    alpha = np.where(levels.alpha == 0, 2.0**-12, levels.alpha)
    return Levels(timesteps=levels.timesteps, alpha=alpha, sigma=np.sqrt(1 - alpha**2))


def tolerance(config: ScheduleConfig, levels: Levels) -> float:
    return TOLERANCE + (EPSILON_ROUNDING / levels.alpha[0] if config.prediction_type == "epsilon" else 0.0)


def difference(ours: Array, theirs: Array) -> float:
    return float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))


PREDICTIONS = {"epsilon": ("epsilon", False), "v": ("v_prediction", False), "v-zero-snr": ("v_prediction", True)}


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("clip", [False, True], ids=["free", "clip"])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", CLASSES)
def test_a_sampler_agrees_with_its_scheduler(
    name: str, prediction: str, schedule: Any, spacing: Any, clip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, zero_snr = PREDICTIONS[prediction]
    config = ScheduleConfig(
        beta_schedule=schedule,
        prediction_type=kind,  # type: ignore[arg-type]
        timestep_spacing=spacing,
        rescale_betas_zero_snr=zero_snr,
        clip_sample=clip,
        clip_sample_range=0.8,
    )
    for steps in STEPS:
        levels = levels_of_diffusers(name, config, steps)
        for eta in (0.0, 0.5, 0.99 if zero_snr else 1.0) if name == "ddim" else (0.0,):
            ours = run_ours(name, config, levels, eta)
            theirs = run_theirs(name, config, levels, eta, monkeypatch, dtype=torch.float64)
            assert difference(ours, theirs) <= tolerance(config, levels), f"{steps} steps, eta {eta}"


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("name", CLASSES)
def test_a_sampler_agrees_with_diffusers_as_it_is(
    name: str, steps: int, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `trailing`, and steps that divide T: here all of diffusers' schedulers visit the same steps and predecessors.
    config = ScheduleConfig(prediction_type=kind, timestep_spacing="trailing", clip_sample=False)
    levels = make_levels(config, steps)
    ours = run_ours(name, config, levels, 0.0)
    theirs = run_theirs(name, config, levels, 0.0, monkeypatch, dtype=torch.float32, own_steps=True)
    assert difference(ours, theirs) <= STOCK_TOLERANCE


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize(("ours", "theirs"), [("ddim", "dpmpp_2m"), ("ddim", "ddpm"), ("dpmpp_2m", "euler")])
def test_the_comparison_tells_algorithms_apart(ours: str, theirs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ScheduleConfig(timestep_spacing="trailing", clip_sample=False)
    levels = make_levels(config, 50)
    found = run_theirs(theirs, config, levels, 0.0, monkeypatch, dtype=torch.float64)
    assert difference(run_ours(ours, config, levels, 0.0), found) > 100 * tolerance(config, levels)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("name", ["dpmpp_2m", "euler"])
@pytest.mark.parametrize("steps", STEPS)
def test_the_stand_in_for_zero_signal_hardly_matters(name: str, steps: int) -> None:
    config = ScheduleConfig(
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
    )
    exact = run_ours(name, config, make_levels(config, steps), 0.0)
    stand_in = run_ours(name, config, levels_of_diffusers(name, config, steps), 0.0)
    # alpha is 2^-12 instead of 0: the first x_0 moves by as much, relative to the largest value.
    assert 0 < difference(exact, stand_in) < 2 * 2.0**-12


def test_the_reference_is_in_double(in_double: None) -> None:
    assert make_scheduler("ddim", ScheduleConfig()).alphas_cumprod.dtype == torch.float64
    scheduler = make_scheduler("euler", ScheduleConfig())
    scheduler.set_timesteps(4)
    assert scheduler.sigmas.dtype == torch.float64
    np.testing.assert_allclose(
        make_scheduler("dpmpp_2m", ScheduleConfig()).alphas_cumprod, alphas_cumprod(ScheduleConfig()), rtol=1e-12
    )
