"""How a sampler runs: the options of the algorithms, and whose conventions hold where papers and diffusers differ."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from aigc_runtime.core.ranges import MAX_COUNT, MAX_STEPS
from aigc_runtime.errors import ConfigError
from aigc_runtime.io.printable import shown

__all__ = ["GRID_OPTIONS", "SamplerConfig"]

MAX_SOLVER_ORDER = 3
"""Of UniPC: the published coefficients go no further, and higher orders are unstable under guidance."""

GRID_OPTIONS = (
    "final_sigmas_type",
    "interpolation_type",
    "lambda_min_clipped",
    "set_alpha_to_one",
    "timestep_type",
    "use_karras_sigmas",
)
"""Options of the levels that are visited: they mean something only where diffusers' conventions hold."""

_CHOICES: dict[str, tuple[object, ...]] = {
    "follows": ("papers", "diffusers"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "interpolation_type": ("linear", "log_linear"),
    "timestep_type": ("discrete", "continuous"),
    "solver_type": (None, "midpoint", "heun", "bh1", "bh2"),
}
_FLAGS = (
    "set_alpha_to_one",
    "use_karras_sigmas",
    "lower_order_final",
    "euler_at_final",
    "predict_x0",
    "skip_prk_steps",
)


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How a sampler runs, with diffusers' field names and their meaning there.

    Attributes:
        follows: `papers`: every sampler visits the same steps, ends at clean data and starts from standard normal
            noise. `diffusers`: steps, predecessors, the last level and the first noise are those of the class of
            diffusers that the sampler is named for, so that its numbers come out.
        eta: share of fresh noise in DDIM, 0 to 1, where a request does not say it.
        set_alpha_to_one: the last step ends at clean data; else at the cleanest level of the schedule.
        final_sigmas_type: the same for samplers that count in sigma: `zero`, or `sigma_min`, the cleanest level.
        use_karras_sigmas: visit the levels of Karras et al. 2022, eq. 5, with rho = 7.
        interpolation_type: of sigma between training steps: `linear`, or `log_linear`: evenly in its logarithm.
        timestep_type: `continuous`: a model of velocities is given log(sigma) / 4 in place of the step.
        lambda_min_clipped: levels with a lower log(alpha / sigma) are not visited; None for no such bound.
        solver_type: of second order: `midpoint` or `heun` in DPM-Solver++, `bh1` or `bh2` in UniPC; None takes the
            first and the last of these.
        solver_order: of UniPC, 1 to 3.
        lower_order_final: the last steps are of lower order, where there are fewer than 15 (UniPC: always).
        euler_at_final: the last step of DPM-Solver++ is of first order.
        predict_x0: UniPC extrapolates x_0, not the noise.
        disable_corrector: steps after which UniPC does not correct.
        skip_prk_steps: PNDM starts by a step of second order, not by three Runge-Kutta steps of four evaluations each.
        original_inference_steps: steps of the sampler that a latent consistency model was distilled from.
        timestep_scaling: of the boundary condition of such a model.

    Raises:
        ConfigError: a value that is not allowed, or an option of the levels where the papers are followed.
    """

    follows: Literal["papers", "diffusers"] = "papers"
    eta: float = 0.0
    set_alpha_to_one: bool = True
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    use_karras_sigmas: bool = False
    interpolation_type: Literal["linear", "log_linear"] = "linear"
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    lambda_min_clipped: float | None = None
    solver_type: Literal["midpoint", "heun", "bh1", "bh2"] | None = None
    solver_order: int = 2
    lower_order_final: bool = True
    euler_at_final: bool = False
    predict_x0: bool = True
    disable_corrector: tuple[int, ...] = ()
    skip_prk_steps: bool = True
    original_inference_steps: int = 50
    timestep_scaling: float = 10.0

    def __post_init__(self) -> None:
        for field, valid in (*_CHOICES.items(), *((flag, (True, False)) for flag in _FLAGS)):
            value = getattr(self, field)
            if value not in valid or (valid == (True, False) and not isinstance(value, bool)):
                raise _wrong(field, value, f"one of {', '.join(map(str, valid))}")
        for field, low, high in (
            ("solver_order", 1, MAX_SOLVER_ORDER),
            ("original_inference_steps", 1, MAX_COUNT),
        ):
            value = getattr(self, field)
            if type(value) is not int or not low <= value <= high:
                raise _wrong(field, value, f"an integer from {low} to {high}")
        if not _is_number(self.eta) or not 0 <= self.eta <= 1:
            raise _wrong("eta", self.eta, "from 0 to 1")
        if not _is_number(self.timestep_scaling) or not 0 < self.timestep_scaling <= 1e6:
            raise _wrong("timestep_scaling", self.timestep_scaling, "above 0 and at most 1e6")
        if self.lambda_min_clipped is not None and not _is_number(self.lambda_min_clipped):
            raise _wrong("lambda_min_clipped", self.lambda_min_clipped, "a number, or null")
        steps = self.disable_corrector
        if not isinstance(steps, tuple) or any(type(i) is not int or not 0 <= i < MAX_STEPS for i in steps):
            raise _wrong("disable_corrector", steps, f"numbers of steps below {MAX_STEPS}")
        if self.follows == "papers" and (given := sorted(self.changed & set(GRID_OPTIONS))):
            raise ConfigError(
                f"SamplerConfig.{given[0]} is {shown(getattr(self, given[0]))}, and follows is 'papers'",
                hint="the papers' levels have no such option: set follows to 'diffusers', or leave it out",
            )

    @property
    def changed(self) -> set[str]:
        """Names of the fields that are not at their defaults."""
        return {f.name for f in fields(self) if getattr(self, f.name) != f.default}


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _wrong(field: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"SamplerConfig.{field} is {shown(value)}", hint=f"must be {allowed}")
