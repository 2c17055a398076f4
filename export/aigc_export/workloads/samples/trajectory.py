"""Run a sampling trajectory, and yield the model's feeds at every step.

The pipeline's own loop draws its noise from the stream that quality is measured with, and visits one grid of timesteps;
calibration needs other noise, and other grids. Sampler and predictions are the pipeline's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_function import Feeds
from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.samplers import Prediction, SamplerConfig, predict
from aigc_runtime.generation.samplers.ddim import ddim
from aigc_runtime.generation.schedules import Levels, ScheduleConfig, alphas_cumprod
from aigc_runtime.pipelines.denoiser import MODEL_OUTPUT, SAMPLE, TIMESTEP

__all__ = ["ddim_trajectory"]


def ddim_trajectory(
    run: Callable[[Feeds], dict[str, Array]],
    schedule: ScheduleConfig,
    x: Array,
    timesteps: Array,
    branches: Sequence[Feeds],
    scale: float,
) -> Iterator[list[dict[str, Array]]]:
    """Sample by DDIM, and yield the feeds of each branch after every step.

    Args:
        run: the model, as a function of all its inputs.
        schedule: of the noise.
        x: [N, C, H, W] float32, x_T.
        timesteps: int64, descending.
        branches: conditions of the N rows; where there are two, the second is that without condition.
        scale: w of classifier-free guidance, eps = eps_null + w (eps_cond - eps_null) (Ho & Salimans 2022, eq. 6).

    Raises:
        CalibrationError: the model gives NaN or infinity.
    """
    a = np.append(alphas_cumprod(schedule)[timesteps], 1.0)
    levels = Levels(timesteps=timesteps, alpha=np.sqrt(a), sigma=np.sqrt(1 - a))
    fed: list[dict[str, Array]] = []

    def denoise(x: Array, step: int) -> Prediction:
        t = np.full(len(x), timesteps[step], dtype=np.float32)
        fed[:] = [{SAMPLE: x, TIMESTEP: t, **branch} for branch in branches]
        outputs = [run(feeds)[MODEL_OUTPUT] for feeds in fed]
        with np.errstate(over="ignore", invalid="ignore"):  # reported below
            out = outputs[0] if len(outputs) == 1 else outputs[1] + np.float32(scale) * (outputs[0] - outputs[1])
        if not np.isfinite(out).all():
            raise CalibrationError(
                f"the float model gives NaN or infinity at timestep {timesteps[step]} of its own trajectory",
                hint="check the checkpoint and its noise schedule",
            )
        return predict(out, x, float(levels.alpha[step]), float(levels.sigma[step]), schedule)

    for _ in ddim(denoise, x, levels, _no_noise, SamplerConfig()):
        yield list(fed)


def _no_noise(shape: tuple[int, ...]) -> Array:
    raise AssertionError(f"DDIM with eta 0 draws no noise, and {shape} was asked for")
