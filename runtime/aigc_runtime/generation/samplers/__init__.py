"""Sampling algorithms of diffusion models: one file each, over a `denoise` callable.

A sampler is a generator: it yields the sample after every step, and the caller may stop at any time.

| code | paper |
| --- | --- |
| alpha, sigma | x_t = alpha_t x_0 + sigma_t epsilon (Lu 2022); alpha^2 is alpha-bar of Ho 2020, alpha of Song 2021 |
| x, x0, eps | x_t and the predictions of x_0 and epsilon |

Coefficients are computed in float64 and applied to float32 arrays. Every algorithm takes any levels that get less
noisy from step to step, a first level without signal and a last one without noise included.

Conventions, where libraries differ: a sampler that a user chooses follows the papers: x_T is standard normal for every
algorithm; the level after the last visited step is clean data; all algorithms visit the same steps; a clipped or
thresholded x_0 is used wherever x_0 is, epsilon stays as the model gave it; no noise is added after the last step.
One that came with a model follows its scheduler_config.json to the letter (`SamplerConfig.follows`). Tests hold the
agreement with diffusers: of the first kind test_samplers_vs_diffusers.py and test_diffusion_vs_diffusers.py, of the
second tests/models/sources/diffusers/test_scheduler.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.generation.samplers.ddim import ddim
from aigc_runtime.generation.samplers.ddpm import ddpm
from aigc_runtime.generation.samplers.dpmpp import (
    dpmpp_1m,
    dpmpp_1m_sde,
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_3m,
    dpmpp_3m_sde,
)
from aigc_runtime.generation.samplers.euler import euler, euler_ancestral
from aigc_runtime.generation.samplers.heun import heun
from aigc_runtime.generation.samplers.lcm import lcm
from aigc_runtime.generation.samplers.levels import MakeLevels, distilled, fractional, inner, strided, visited
from aigc_runtime.generation.samplers.lms import lms
from aigc_runtime.generation.samplers.pndm import late_pndm_levels, pndm, pndm_levels
from aigc_runtime.generation.samplers.prediction import Denoise, Noise, Prediction, predict
from aigc_runtime.generation.samplers.sampler_config import SamplerConfig
from aigc_runtime.generation.samplers.unipc import unipc
from aigc_runtime.generation.schedules import Levels, ScheduleConfig
from aigc_runtime.io.printable import shown

__all__ = [
    "SAMPLERS",
    "Denoise",
    "Noise",
    "Prediction",
    "Sampler",
    "SamplerConfig",
    "check_options",
    "fitting_steps",
    "predict",
    "sample",
]

Run = Callable[[Denoise, Array, Levels, Noise, SamplerConfig], Iterator[Array]]
"""Called as run(denoise, x_T, levels, noise, config); yields x after each step."""
LateLevels = Callable[[ScheduleConfig, SamplerConfig, int, int], Levels]
"""Called as late(schedule, config, steps, skipped)."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A sampling algorithm.

    Attributes:
        run: the algorithm.
        levels: which it visits.
        options: fields of `SamplerConfig` that it takes, besides `follows`.
        solver_types: values of `solver_type` that it knows.
        late: the levels of a run that starts behind some steps; None takes what is left of `levels`.
    """

    run: Run
    levels: MakeLevels
    options: frozenset[str] = frozenset()
    solver_types: tuple[str, ...] = ("midpoint", "heun")
    late: LateLevels | None = None

    def late_levels(self, schedule: ScheduleConfig, config: SamplerConfig, steps: int, skipped: int) -> Levels:
        """The levels of a run of `steps` steps whose first `skipped` are left out.

        Raises:
            InputError: the sampler cannot visit so many.
        """
        levels = self.levels(schedule, config, steps)
        if not skipped:
            return levels
        return levels.without(skipped) if self.late is None else self.late(schedule, config, steps, skipped)


_MULTISTEP = frozenset(("final_sigmas_type", "use_karras_sigmas", "lower_order_final", "solver_type"))
_DPMPP = _MULTISTEP | {"lambda_min_clipped", "euler_at_final"}

SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler(run=ddim, levels=strided, options=frozenset(("eta", "set_alpha_to_one"))),
    "ddpm": Sampler(run=ddpm, levels=visited),
    "dpmpp_1m": Sampler(run=dpmpp_1m, levels=inner, options=_DPMPP),
    "dpmpp_2m": Sampler(run=dpmpp_2m, levels=inner, options=_DPMPP),
    "dpmpp_3m": Sampler(run=dpmpp_3m, levels=inner, options=_DPMPP),
    "dpmpp_1m_sde": Sampler(run=dpmpp_1m_sde, levels=inner, options=_DPMPP),
    "dpmpp_2m_sde": Sampler(run=dpmpp_2m_sde, levels=inner, options=_DPMPP),
    "dpmpp_3m_sde": Sampler(run=dpmpp_3m_sde, levels=inner, options=_DPMPP),
    "euler": Sampler(
        run=euler,
        levels=fractional,
        options=frozenset(("final_sigmas_type", "interpolation_type", "timestep_type", "use_karras_sigmas")),
    ),
    "euler_ancestral": Sampler(run=euler_ancestral, levels=fractional),
    "heun": Sampler(run=heun, levels=fractional, options=frozenset(("use_karras_sigmas",))),
    "lcm": Sampler(run=lcm, levels=distilled, options=frozenset(("original_inference_steps", "timestep_scaling"))),
    "lms": Sampler(run=lms, levels=fractional, options=frozenset(("use_karras_sigmas",))),
    "pndm": Sampler(
        run=pndm,
        levels=pndm_levels,
        options=frozenset(("set_alpha_to_one", "skip_prk_steps")),
        late=late_pndm_levels,
    ),
    "unipc": Sampler(
        run=unipc,
        levels=inner,
        options=_MULTISTEP | {"solver_order", "predict_x0", "disable_corrector"},
        solver_types=("bh1", "bh2"),
    ),
}
"""Name -> sampler."""


def check_options(name: str, config: SamplerConfig) -> None:
    """Refuse options that a sampler does not have.

    Args:
        name: of the sampler, a key of `SAMPLERS`.
        config: how it is to run.

    Raises:
        ConfigError: names the option, and those that the sampler has.
    """
    options = SAMPLERS[name].options
    if unknown := sorted(config.changed - options - {"follows"}):
        raise ConfigError(
            f"sampler {name!r} has no option {unknown[0]!r}, which is {shown(getattr(config, unknown[0]))}",
            hint=f"its options: {', '.join(sorted(options)) or 'none'}",
        )
    types = SAMPLERS[name].solver_types
    if config.solver_type not in (None, *types):
        raise ConfigError(
            f"sampler {name!r} with solver_type {config.solver_type!r}", hint=f"valid: {', '.join(types)}"
        )


def sample(
    name: str, denoise: Denoise, x: Array, levels: Levels, noise: Noise, config: SamplerConfig
) -> Iterator[Array]:
    """Run a sampler from the first noise to the sample.

    Args:
        name: of the sampler.
        denoise: the model.
        x: standard normal float32.
        levels: that the sampler visits.
        noise: where it draws more from.
        config: how it runs.

    Yields:
        The sample after each of `levels.steps` steps.
    """
    if levels.first_noise != 1.0:
        x = x * x.dtype.type(levels.first_noise)
    for i, out in enumerate(SAMPLERS[name].run(denoise, x, levels, noise, config), start=1):
        yield out if i < levels.steps or levels.last_scale == 1.0 else out * out.dtype.type(levels.last_scale)


def fitting_steps(schedule: ScheduleConfig, most: int, name: str = "ddim", config: SamplerConfig | None = None) -> int:
    """The largest number of steps up to `most` in which a sampler can run.

    >>> fitting_steps(ScheduleConfig(num_train_timesteps=10), 20)
    10

    Raises:
        ConfigError: there is none.
    """
    for steps in range(min(most, schedule.num_train_timesteps), 0, -1):
        try:
            SAMPLERS[name].levels(schedule, config or SamplerConfig(), steps)
        except InputError:
            continue
        return steps
    raise ConfigError(f"sampler {name!r} cannot run on this schedule in {most} steps or fewer")
