"""A second opinion on whole generations: diffusers' loop around our engine, against our pipeline, from the same seed.

Both sides of parity share the pipeline, so nothing that it does wrong can show there. Here the other side is diffusers:
its noise, guidance as its pipelines write it, its schedulers' tables and steps, what its pipelines do with the last
sample, and torch's generator. The engine is a formula.

Where diffusers differs from itself, the reference steps over it: see `test_samplers_vs_diffusers.py`, and

1. DPM-Solver++ and Euler cannot clip. They are given the x_0 that DDPM's scheduler predicts, which can.
2. DDPM adds noise after the last step unless that is t = 0 (Ho 2020, algorithm 2: none). It is given zeros there.
3. A learned variance belongs to DDPM. DDIM and Euler would take it for channels of the sample, DPM-Solver++ cuts at
   three channels: all get the first half.
4. DPM-Solver++ and Euler put alpha = 2^-12 where there is no signal: there our pipeline gets it, too.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, DimSpec, TensorSpec
from aigc_runtime.errors import InputError
from aigc_runtime.generation.schedules import Levels, ScheduleConfig, make_levels
from aigc_runtime.io.png import to_uint8
from aigc_runtime.pipelines.diffusion import DiffusionPipeline
from aigc_runtime.pipelines.settings import DiffusionSettings

from ..diffusers_reference import VisitedPredecessor, diffusers, make_scheduler, torch, use_double

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

T = 24
SIDES = (3, 2)
NULL = 2
TOLERANCE = 1e-5  # of the largest value: float32 rounding, and 5 ulps of the noise, over up to 24 steps
EPSILON_ROUNDING = 3 * 2.0**-23  # of x_0 = (x - sigma eps) / alpha
SEED = 11


@dataclass(frozen=True, kw_only=True)
class Case:
    sampler: str
    config: ScheduleConfig
    steps: int
    channels: int
    guidance: float = 1.0
    rescale: float = 0.0
    eta: float = 0.0
    labels: tuple[int, ...] = (0, 1, 0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_session(case: Case, rows: int = 8) -> ArraySession:
    """An engine that looks at all it is given: neighbors, channels, the timestep and the class."""
    c = case.channels
    given = 2 * c if case.config.learns_variance else c

    def function(values: Mapping[str, Array]) -> dict[str, Array]:
        x, t = values["sample"], values["timestep"][:, None, None, None] / np.float32(T)
        label = values["class_labels"][:, None, None, None].astype(np.float32)
        mixed = x + np.float32(0.3) * np.roll(x, 1, axis=1) - np.float32(0.2) * np.roll(x, 1, axis=3)
        mean = np.tanh(mixed * (np.float32(0.8) - np.float32(0.3) * t)) + np.float32(0.15) * label * np.cos(x)
        if given == c:
            return {"model_output": mean}
        about = np.sin(x + t) * np.float32(1.2)  # from below -1 to above 1
        if case.config.variance_type == "learned":
            about = np.float32(0.02) * about**2 + np.float32(0.001)
        return {"model_output": np.concatenate([mean, about], axis=1)}

    return ArraySession(
        function,
        Interface(
            inputs=(
                TensorSpec(name="sample", dtype="float32", shape=("batch", c, *SIDES)),
                TensorSpec(name="timestep", dtype="float32", shape=("batch",)),
                TensorSpec(name="class_labels", dtype="int64", shape=("batch",), low=0, high=3),
            ),
            outputs=(TensorSpec(name="model_output", dtype="float32", shape=("batch", given, *SIDES)),),
            dims=(DimSpec(name="batch", max=rows),),
        ),
    )


def make_pipeline(case: Case, rows: int = 8) -> DiffusionPipeline:
    settings = DiffusionSettings(
        schedule=case.config,
        sample_shape=(case.channels, *SIDES),
        num_classes=2,
        null_class=NULL,
        default_sampler="ddim",
        default_steps=2,
        default_guidance_scale=1.0,
    )
    return DiffusionPipeline(make_session(case, rows), settings)


def ours(case: Case, rows: int = 8) -> Array:
    return make_pipeline(case, rows).generate(
        list(case.labels),
        steps=case.steps,
        sampler=case.sampler,
        eta=case.eta,
        guidance_scale=case.guidance,
        guidance_rescale=case.rescale,
        seed=SEED,
    )


class Engine:
    """Our engine as diffusers' pipelines call a UNet: a tensor in, a tensor out, and guidance as they write it."""

    def __init__(self, case: Case) -> None:
        self.session, self.case = make_session(case), case

    def run(self, x: Any, t: int, labels: list[int]) -> Any:
        feeds = {
            "sample": x.to(torch.float32).numpy(),
            "timestep": np.full(len(labels), t, dtype=np.float32),
            "class_labels": np.array(labels, dtype=np.int64),
        }
        return torch.from_numpy(self.session.run(feeds)["model_output"]).to(x.dtype)

    def __call__(self, x: Any, t: int) -> Any:
        labels = list(self.case.labels)
        given = self.run(x, t, labels)
        if self.case.guidance == 1.0:
            return given
        # pipeline_if.py: the variance is that of the condition.
        c = self.case.channels
        text, variance = given.split([c, given.shape[1] - c], dim=1)
        nothing = self.run(x, t, [NULL] * len(labels))[:, :c]
        mean = nothing + self.case.guidance * (text - nothing)
        if self.case.rescale:
            stable_diffusion = importlib.import_module("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
            mean = stable_diffusion.rescale_noise_cfg(mean, text, self.case.rescale)
        return torch.cat([mean, variance], dim=1)


def theirs(case: Case, monkeypatch: pytest.MonkeyPatch) -> Array:
    config, c = case.config, case.channels
    visited = make_levels(config, case.steps).timesteps.tolist()
    engine, generator = Engine(case), torch.Generator().manual_seed(SEED)
    shape = (len(case.labels), c, *SIDES)

    def noise() -> Any:
        return torch.randn(shape, generator=generator).to(torch.float64)

    x = noise()
    clipping = make_scheduler("ddpm", replace(config, variance_type="fixed_small"))
    clipping.set_timesteps(timesteps=visited)
    kind = {} if case.sampler in ("ddim", "ddpm") else {"prediction_type": "sample"}
    scheduler = make_scheduler(case.sampler, config, **kind)
    clipping.alphas_cumprod = scheduler.alphas_cumprod
    if case.sampler == "ddim":
        scheduler.set_timesteps(case.steps)
        assert scheduler.timesteps.tolist() == visited
    else:
        scheduler.set_timesteps(timesteps=visited)
    x = x * (1.0 if case.sampler != "euler" else torch.sqrt(scheduler.sigmas[0] ** 2 + 1))
    for i, t in enumerate(visited):
        last = i + 1 == len(visited)
        step = torch.tensor(float(t)) if case.sampler == "euler" else torch.tensor(t)
        sample = scheduler.scale_model_input(x, step)
        output = engine(sample, t)
        if case.sampler == "ddpm":
            fresh = torch.zeros(shape, dtype=torch.float64) if last else noise()
            with monkeypatch.context() as patch:
                patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, f=fresh, **__: f)
                x = scheduler.step(output, t, x).prev_sample
        elif case.sampler == "ddim":
            scheduler.num_inference_steps = VisitedPredecessor(t + 1 if last else t - visited[i + 1])
            fresh = None
            if case.eta:
                fresh = torch.zeros(shape, dtype=torch.float64) if last else noise()
            x = scheduler.step(output[:, :c], t, x, eta=case.eta, variance_noise=fresh).prev_sample
        else:
            x0 = clipping.step(output[:, :c], t, sample).pred_original_sample
            x = scheduler.step(x0, step, x).prev_sample
    assert x.dtype == torch.float64
    result: Array = x.numpy()
    return result


CLIPPED: list[dict[str, Any]] = [
    {"clip_sample": False},
    {"clip_sample": True},
    {"clip_sample_range": 0.5},
    {"clip_sample_range": 2.5},
    {"thresholding": True, "sample_max_value": 3.0, "dynamic_thresholding_ratio": 0.8},
    {"thresholding": True, "clip_sample": False},
]
PREDICTED: list[dict[str, Any]] = [
    {"prediction_type": "epsilon"},
    {"prediction_type": "v_prediction"},
    {"prediction_type": "sample"},
    {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    {"prediction_type": "sample", "rescale_betas_zero_snr": True},
]
BETAS: list[dict[str, Any]] = [
    {"beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.3},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.2},
    {"beta_schedule": "squaredcos_cap_v2"},
]
SPACINGS: list[dict[str, Any]] = [
    {"timestep_spacing": "leading"},
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"timestep_spacing": "linspace"},
    {"timestep_spacing": "trailing"},
]
SAMPLED: list[dict[str, Any]] = [
    *({"sampler": "ddim", "eta": eta} for eta in (0.0, 0.5, 1.0)),
    *(
        {"sampler": "ddpm", "variance_type": kind}
        for kind in ("fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range")
    ),
    {"sampler": "ddim", "eta": 0.0, "variance_type": "learned_range"},
    *(
        {"sampler": name, "variance_type": kind}
        for name in ("dpmpp_2m", "euler")
        for kind in ("fixed_small", "learned")
    ),
]


def random_case(sampled: Mapping[str, Any], rng: np.random.Generator) -> Case:
    def one(options: Any) -> Any:
        return options[rng.integers(len(options))]

    parts = {**one(CLIPPED), **one(PREDICTED), **one(BETAS), **one(SPACINGS), **sampled}
    own = {name: parts.pop(name) for name in ("sampler", "eta") if name in parts}
    offset = parts.get("steps_offset", 0)
    if offset and parts["prediction_type"] != "epsilon" and parts.get("rescale_betas_zero_snr"):
        parts["timestep_spacing"] = "trailing"  # with an offset DDIM leaves the range
    if own.get("eta") == 1.0 and parts.get("rescale_betas_zero_snr"):
        own["eta"] = 0.99  # DDIM takes the root of a rounding error below zero
    steps = one([1, 2, 5, 7, T - 2, T] if not offset else [2, 5, 7])
    return Case(
        config=ScheduleConfig(num_train_timesteps=T, **parts),
        steps=steps,
        channels=one([1, 3, 4]),
        guidance=one([1.0, 0.0, 2.5]),
        **own,
    )


def limit(case: Case) -> float:
    levels = make_levels(case.config, case.steps)
    allowed = TOLERANCE * max(1.0, case.guidance)
    if case.config.prediction_type == "epsilon":
        allowed += 4 * EPSILON_ROUNDING / float(levels.alpha[0]) * max(1.0, abs(case.guidance))
    return allowed


def difference(a: Array, b: Array) -> float:
    return float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))


def with_some_signal(config: ScheduleConfig, steps: int) -> Levels:
    levels = make_levels(config, steps)
    alpha = np.where(levels.alpha == 0, 2.0**-12, levels.alpha)
    return replace(levels, alpha=alpha, sigma=np.sqrt(1 - alpha**2))


@pytest.mark.parametrize("sampled", SAMPLED, ids=lambda s: "-".join(str(v) for v in s.values()))
def test_the_pipeline_gives_what_diffusers_gives(sampled: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)
    if sampled["sampler"] in ("dpmpp_2m", "euler"):
        monkeypatch.setattr("aigc_runtime.generation.samplers.levels.make_levels", with_some_signal)
    rng = np.random.default_rng(SAMPLED.index(sampled))
    for _ in range(30):
        case = random_case(sampled, rng)
        found, expected = ours(case), theirs(case, monkeypatch)
        assert difference(found, expected) <= limit(case), case
        bound = case.config.sample_bound
        assert bound is None or np.abs(found).max() <= np.float32(bound)


BASE = Case(sampler="ddim", config=ScheduleConfig(num_train_timesteps=T, **BETAS[0]), steps=8, channels=3)
OTHERS = [
    replace(BASE, sampler="euler"),  # differs from DDIM by what is clipped
    replace(BASE, sampler="ddpm"),
    replace(BASE, sampler="dpmpp_2m"),
    replace(BASE, eta=0.2),
    replace(BASE, guidance=1.1),
    replace(BASE, guidance=1.1, rescale=0.5),
    replace(BASE, labels=(1, 1, 0)),
    replace(BASE, steps=7),
    *(
        replace(BASE, config=replace(BASE.config, **change))
        for change in (
            {"clip_sample": False},
            {"clip_sample_range": 0.9},
            {"thresholding": True, "sample_max_value": 3.0},
            {"prediction_type": "v_prediction"},
            {"prediction_type": "sample"},
            {"beta_end": 0.29},
            {"beta_schedule": "scaled_linear"},
            {"timestep_spacing": "trailing"},
            {"steps_offset": 1},
        )
    ),
    *(
        replace(BASE, sampler="ddpm", config=replace(BASE.config, variance_type=kind))
        for kind in ("fixed_large", "learned", "learned_range")
    ),
]


@pytest.mark.parametrize("rescale", [0.7, 1.0])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_guidance_is_rescaled_as_diffusers_does(sampler: str, rescale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not among the random cases: a picture that is nearly flat has no deviation to divide by."""
    use_double(monkeypatch)
    for kind in ("fixed_small", "learned_range"):
        config = replace(BASE.config, variance_type=kind if sampler == "ddpm" else "fixed_small")
        case = replace(BASE, sampler=sampler, config=config, guidance=2.5, rescale=rescale)
        assert difference(ours(case), theirs(case, monkeypatch)) <= limit(case)


def test_a_flat_output_has_nothing_to_be_rescaled_by() -> None:
    session = ArraySession(
        lambda values: {"model_output": np.zeros_like(values["sample"])}, make_session(BASE).interface
    )
    pipeline = DiffusionPipeline(session, make_pipeline(BASE).settings)
    plain, rescaled = (
        pipeline.generate([0, 1], steps=3, guidance_scale=2.5, guidance_rescale=rescale) for rescale in (0.0, 1.0)
    )
    np.testing.assert_array_equal(plain, rescaled)
    with pytest.raises(InputError, match=r"guidance_rescale is 1\.5"):
        pipeline.generate([0], steps=3, guidance_rescale=1.5)


@pytest.mark.parametrize("other", OTHERS, ids=lambda case: f"{case.sampler}-{OTHERS.index(case)}")
def test_the_comparison_sees_every_setting(other: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)
    assert difference(ours(other), theirs(BASE, monkeypatch)) > 100 * limit(BASE)


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("sampled", SAMPLED, ids=lambda s: "-".join(str(v) for v in s.values()))
def test_images_come_one_by_one_as_they_come_together(sampled: dict[str, Any], rows: int) -> None:
    rng = np.random.default_rng(5)
    case = replace(random_case(sampled, rng), labels=(0, 1, 1, 0, 1, 0, 0))
    together = ours(case, rows=64)
    pipeline = make_pipeline(case, rows)
    arguments: dict[str, Any] = {"steps": case.steps, "sampler": case.sampler, "eta": case.eta, "seed": SEED}
    one_by_one = list(
        pipeline.stream(list(case.labels), guidance_scale=case.guidance, guidance_rescale=case.rescale, **arguments)
    )
    assert all(image.shape == (case.channels, *SIDES) for image in one_by_one)
    np.testing.assert_array_equal(np.stack(one_by_one), ours(case, rows))
    # The engine's own rounding may depend on how many rows it runs: a formula's does not.
    np.testing.assert_array_equal(np.stack(one_by_one), together)


class Unet(torch.nn.Module):  # type: ignore[misc]
    """Our engine in the place of a pipeline's UNet."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.engine = Engine(case)
        self.config = type("Config", (), {"in_channels": case.channels, "sample_size": SIDES})()
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def forward(self, x: Any, t: Any) -> Any:
        return type("Output", (), {"sample": self.engine(x, int(t))})()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("sampler", "change"),
    [
        ("ddpm", {}),
        ("ddpm", {"variance_type": "learned_range"}),
        ("ddpm", {"clip_sample": False, "variance_type": "fixed_large"}),
        ("ddpm", {"clip_sample_range": 2.0, "prediction_type": "v_prediction"}),
        ("ddim", {"clip_sample": False}),
        ("ddim", {"thresholding": True, "prediction_type": "sample"}),
    ],
)
def test_a_whole_pipeline_of_diffusers_over_our_engine_draws_the_same_pictures(
    sampler: str, change: dict[str, Any], channels: int
) -> None:
    config = replace(BASE.config, **change)
    case = Case(sampler=sampler, config=config, steps=T, channels=channels)
    pipeline = getattr(diffusers, {"ddpm": "DDPMPipeline", "ddim": "DDIMPipeline"}[sampler])(
        unet=Unet(case), scheduler=make_scheduler(sampler, config)
    )
    pipeline.set_progress_bar_config(disable=True)
    given = {"batch_size": len(case.labels), "generator": torch.Generator().manual_seed(SEED), "num_inference_steps": T}
    expected = np.stack([np.atleast_3d(np.asarray(image)) for image in pipeline(**given).images])
    found = to_uint8(ours(case)).transpose(0, 2, 3, 1)
    # Both round to 256 levels: a value that lies between two may go either way.
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    assert (found != expected).mean() <= 0.02
    assert len(np.unique(expected)) >= 6
