"""What a model's output says about a noisy sample: x_0 and epsilon, from whichever of them it predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.schedules import ScheduleConfig

__all__ = ["Denoise", "Noise", "Prediction", "predict"]


class Prediction(NamedTuple):
    """What a model's output says about a noisy sample.

    Attributes:
        x0: the clean sample, float32, shape of the sample.
        eps: the noise, float32, shape of the sample.
        variance: what a model that learns it says about the variance, in the terms of its `variance_type`; else None.
    """

    x0: Array
    eps: Array
    variance: Array | None = None


Denoise = Callable[[Array, int], Prediction]
"""Called as denoise(x, i): x_t float32 at the i-th level of the run. It may change x in place, from the second call on:
what it sees is what the sampler goes on from.
"""

Noise = Callable[[tuple[int, ...]], Array]
"""Called as noise(shape): standard normal float32."""


def predict(output: Array, x: Array, alpha: float, sigma: float, config: ScheduleConfig) -> Prediction:
    """Turn a model's output into x_0 and epsilon.

    epsilon: x_0 = (x - sigma eps) / alpha (Ho 2020, eq. 15). v: x_0 = alpha x - sigma v, eps = alpha v + sigma x
    (Salimans & Ho 2022, appendix D). sample: x_0 is the output, eps = (x - alpha x_0) / sigma.
    """
    a, s = np.float32(alpha), np.float32(sigma)
    variance = None
    if config.learns_variance:
        output, variance = output[:, : x.shape[1]], output[:, x.shape[1] :]
    if config.prediction_type == "epsilon":
        x0, eps = (x - s * output) / a, output
    elif config.prediction_type == "sample":
        x0, eps = output, (x - a * output) / s
    else:
        x0, eps = a * x - s * output, a * output + s * x
    if config.thresholding:
        x0 = _threshold(x0, config.dynamic_thresholding_ratio, config.sample_max_value)
    elif config.clip_sample:
        x0 = np.clip(x0, -config.clip_sample_range, config.clip_sample_range)
    return Prediction(x0, eps, variance)


def _threshold(x0: Array, ratio: float, most: float) -> Array:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3): s of an image is that quantile of |x_0|, 1 to `most`."""
    flat = x0.reshape(len(x0), -1)
    s = np.clip(np.quantile(np.abs(flat), ratio, axis=1), 1.0, most).astype(np.float32)[:, None]
    scaled: Array = (np.clip(flat, -s, s) / s).reshape(x0.shape)
    return scaled
