"""The game against a patch discriminator, as a part of the loss of models whose pictures have a target."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aigc_models.families.gan import hinge_loss
from aigc_models.families.patch_discriminator import PatchDiscriminator
from aigc_models.training.loop import LoopConfig

__all__ = ["PatchGame", "updates_done"]

WARM_UP = 0.5
"""Share of the steps before the game begins: the model learns by its targets alone (Wang et al. 2018, section 4.1)."""


def updates_done(optimizer: torch.optim.Optimizer) -> int:
    """Count an optimizer's updates, those before a resumed run among them: Adam keeps their number with its moments."""
    states = list(optimizer.state.values())
    return int(states[0]["step"]) if states else 0


class PatchGame:
    """A discriminator and its optimizer; the model's optimizer says whether the game has begun.

    Args:
        channels: of the pictures.
        loop: of the training.
        weight: of the generator's part of the loss, lambda.
        device: that both sides are on.
    """

    def __init__(self, channels: int, loop: LoopConfig, weight: float, device: str) -> None:
        self.discriminator = PatchDiscriminator(channels).to(device)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=loop.learning_rate, betas=(0.5, 0.999))
        self.begins = int(WARM_UP * loop.steps)
        self.weight, self.max_grad_norm, self.loss = weight, loop.max_grad_norm, hinge_loss

    def has_begun(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the model's optimizer has made as many updates as the warm-up has."""
        return updates_done(optimizer) >= self.begins

    def update(self, real: Tensor, fake: Tensor) -> float:
        """Update the discriminator once.

        Args:
            real: [B, C, H, W], the targets.
            fake: what the model made of them.

        Returns:
            The loss before the update.
        """
        loss = self.loss.discriminator(self.discriminator(real), self.discriminator(fake.detach()))
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.discriminator.parameters(), self.max_grad_norm)
        self.optimizer.step()
        return loss.item()
