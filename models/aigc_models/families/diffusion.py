"""The forward process and the losses of diffusion training.

Shapes: B batch, C channels, H height, W width, T training steps.

| code | paper |
| --- | --- |
| alphas_cumprod[t] | alpha-bar_t, Ho et al. 2020 |
| x0, noise, xt | x_0, epsilon, x_t |
| v | velocity, Salimans & Ho 2022 |
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aigc_models.families.layers import require_one_of
from aigc_models.families.unet import UNet
from aigc_runtime.errors import ConfigError

__all__ = ["Conditions", "diffusion_loss", "drop_conditions", "q_sample", "velocity"]

PredictionType = Literal["epsilon", "sample", "v_prediction"]


class Conditions(NamedTuple):
    """The conditions of a UNet.

    Attributes:
        class_labels: [B] int64, or None.
        encoder_hidden_states: [B, T, X], or None.
    """

    class_labels: Tensor | None = None
    encoder_hidden_states: Tensor | None = None


def q_sample(x0: Tensor, noise: Tensor, alphas_cumprod: Tensor, t: Tensor) -> Tensor:
    """Draw x_t ~ q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I) (Ho 2020, eq. 4).

    Args:
        x0: [B, C, H, W].
        noise: [B, C, H, W], standard normal.
        alphas_cumprod: [T].
        t: [B] int64 in [0, T).

    Returns:
        [B, C, H, W].
    """
    a = alphas_cumprod[t].to(x0.dtype).view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


def velocity(x0: Tensor, noise: Tensor, alphas_cumprod: Tensor, t: Tensor) -> Tensor:
    """Velocity v = sqrt(abar_t) epsilon - sqrt(1 - abar_t) x_0 (Salimans & Ho 2022, appendix D).

    Shapes as in `q_sample`.
    """
    a = alphas_cumprod[t].to(x0.dtype).view(-1, 1, 1, 1)
    return a.sqrt() * noise - (1 - a).sqrt() * x0


def drop_conditions(
    conditions: Conditions,
    *,
    probability: float,
    null_class: int | None,
    null_encoder_hidden_states: Tensor | None,
    rng: torch.Generator,
) -> Conditions:
    """Replace each row's conditions by the null ones with a probability (Ho & Salimans 2022, algorithm 1, line 3).

    A row loses all its conditions or none.

    Args:
        conditions: class labels and context of every row.
        probability: of a row losing its conditions.
        null_class: label that means "no class".
        null_encoder_hidden_states: [1, T, X], the context that means "no condition".
        rng: source of the choice.

    Raises:
        ConfigError: a probability outside [0, 1], or a condition to drop for which there is no null one.
    """
    if not 0.0 <= probability <= 1.0:
        raise ConfigError(f"condition_dropout is {probability}", hint="must be from 0 to 1")
    labels, context = conditions
    given = labels if labels is not None else context
    if given is None or probability == 0.0:
        return conditions
    drop_B = (torch.rand(given.shape[0], generator=rng, device=rng.device) < probability).to(given.device)
    if labels is not None:
        if null_class is None:
            raise _no_null(probability, "class_labels", "null_class")
        labels = torch.where(drop_B, null_class, labels)
    if context is not None:
        if null_encoder_hidden_states is None:
            raise _no_null(probability, "encoder_hidden_states", "null_encoder_hidden_states")
        context = torch.where(drop_B.view(-1, 1, 1), null_encoder_hidden_states, context)
    return Conditions(labels, context)


def _no_null(probability: float, name: str, null: str) -> ConfigError:
    return ConfigError(
        f"condition_dropout is {probability}, but {name} have no null value",
        hint=f"set {null}, or condition_dropout to 0",
    )


def diffusion_loss(
    model: UNet,
    x0: Tensor,
    conditions: Conditions,
    *,
    alphas_cumprod: Tensor,
    prediction_type: PredictionType,
    rng: torch.Generator,
    condition_dropout: float = 0.0,
    null_encoder_hidden_states: Tensor | None = None,
) -> Tensor:
    """Mean squared error of the predicted noise (Ho 2020, eq. 14), x_0 or velocity at random steps.

    Args:
        model: the UNet.
        x0: [B, C, H, W] in [-1, 1].
        conditions: class labels and context of every row.
        alphas_cumprod: [T].
        prediction_type: what the model predicts.
        rng: source of steps, noise and dropped conditions, on any device: a CPU generator gives every device the
            same training.
        condition_dropout: probability of training a row without its conditions.
        null_encoder_hidden_states: [1, T, X], the context that means "no condition".

    Returns:
        A scalar.

    Raises:
        ConfigError: an unknown prediction type, or conditions that cannot be dropped.
    """
    require_one_of("diffusion_loss", "prediction_type", prediction_type, ("epsilon", "sample", "v_prediction"))
    t = torch.randint(len(alphas_cumprod), (x0.shape[0],), generator=rng, device=rng.device).to(x0.device)
    noise = torch.randn(x0.shape, generator=rng, dtype=x0.dtype, device=rng.device).to(x0.device)
    kept = drop_conditions(
        conditions,
        probability=condition_dropout,
        null_class=model.config.null_class,
        null_encoder_hidden_states=null_encoder_hidden_states,
        rng=rng,
    )
    xt = q_sample(x0, noise, alphas_cumprod, t)
    if prediction_type == "v_prediction":
        target = velocity(x0, noise, alphas_cumprod, t)
    else:
        target = noise if prediction_type == "epsilon" else x0
    return F.mse_loss(model(xt, t.float(), kept.class_labels, kept.encoder_hidden_states), target)
