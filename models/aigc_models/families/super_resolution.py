"""The loss of generators that enlarge pictures, and one update with it.

Shapes: B batch, C channels, H height, W width, S scale.

Reference:
    Wang et al. 2018, "ESRGAN" (arXiv:1809.00219), eq. 3, without its perceptual part, which needs a network that was
    trained on other pictures.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.families.gan import GanLoss
from aigc_runtime.errors import ConfigError

__all__ = ["super_resolution_loss", "super_resolution_step"]


def super_resolution_loss(
    predicted: Tensor,
    target: Tensor,
    *,
    logits: Tensor | None = None,
    gan: GanLoss | None = None,
    gan_weight: float = 0.0,
) -> Tensor:
    """Compute eta L1(predicted, target) + lambda L_G with eta = 1 (eq. 3).

    Args:
        predicted: [B, C, S H, S W], what the generator gave.
        target: the same, what it should have given.
        logits: [B], or of patches [B, 1, h, w], of a discriminator on `predicted`; None trains by L1 alone.
        gan: the game that the discriminator plays.
        gan_weight: lambda.

    Raises:
        ConfigError: shapes that differ, which would be broadcast; or a part of the game without the others.
    """
    if predicted.shape != target.shape:
        raise ConfigError(
            f"the result has shape {list(predicted.shape)}, its target {list(target.shape)}",
            hint="the target's sides must be those of the input times the scale",
        )
    loss = F.l1_loss(predicted, target)
    if (logits is None) != (gan is None) or (gan is None) != (gan_weight == 0):
        raise ConfigError("a GAN's part of the loss needs logits, gan and gan_weight", hint="give all three, or none")
    return loss if logits is None or gan is None else loss + gan_weight * gan.generator(logits)


def super_resolution_step(
    generator: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    images: Tensor,
    targets: Tensor,
    max_grad_norm: float,
) -> float:
    """Make one update of a generator by L1.

    Args:
        generator: images -> larger images.
        optimizer: of its parameters.
        images: [B, C, H, W].
        targets: [B, C, S H, S W].
        max_grad_norm: the gradient is clipped to this norm.

    Returns:
        The loss before the update.
    """
    loss = super_resolution_loss(generator(images), targets)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(generator.parameters(), max_grad_norm)
    optimizer.step()
    return loss.item()
