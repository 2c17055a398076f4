"""The `Task` of a variational autoencoder: pictures through a latent that is drawn, and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aigc_models.data.image_data import ImageData
from aigc_models.families.vae import AutoencoderKL, VaeConfig, sample_latent, vae_loss
from aigc_models.training.loop import LoopConfig
from aigc_models.training.patch_game import PatchGame

__all__ = ["VaeTask"]

HELD_OUT_PICTURES = 64


class VaeTask:
    """L1 and the KL term, and after a warm-up the game against a patch discriminator where it has a weight.

    (Rombach et al. 2022, eq. 25, without its perceptual part.)
    """

    def __init__(
        self,
        config: VaeConfig,
        loop: LoopConfig,
        data: ImageData,
        kl_weight: float,
        *,
        gan_weight: float = 0.0,
        device: str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.model: nn.Module = AutoencoderKL(config).to(self.device)
        optimizer = torch.optim.Adam(self.model.parameters(), lr=loop.learning_rate, betas=(0.5, 0.9))
        self.optimizers: dict[str, torch.optim.Optimizer] = {"model": optimizer}
        self.extra: dict[str, nn.Module] = {}
        self.game = PatchGame(config.out_channels, loop, gan_weight, device) if gan_weight else None
        if self.game is not None:
            self.optimizers["discriminator"] = self.game.optimizer
            self.extra["discriminator"] = self.game.discriminator
        self.loop, self.data, self.kl_weight = loop, data, kl_weight

    def step(self, rng: torch.Generator) -> dict[str, float]:
        """Update the autoencoder once, and the discriminator, where the game has begun."""
        rows = torch.randint(len(self.data.train), (self.loop.batch_size,), generator=rng)
        images = self.data.train[rows].to(self.device)
        optimizer, game = self.optimizers["model"], self.game
        playing = game is not None and game.has_begun(optimizer)
        loss, decoded = self._loss(self.model, images, rng)
        losses = {"loss": loss.item()}
        if game is not None and playing:
            loss = loss + game.weight * game.loss.generator(game.discriminator(decoded))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.loop.max_grad_norm)
        optimizer.step()
        if game is not None and playing:
            losses["discriminator"] = game.update(images, decoded)
        return losses

    def held_out_loss(self, model: nn.Module) -> float | None:
        """Compute L1 and the KL term with the same draws every time."""
        images = self.data.held_out[:HELD_OUT_PICTURES]
        if not len(images):
            return None
        loss, _ = self._loss(model, images.to(self.device), torch.Generator().manual_seed(0))
        return loss.item()

    def _loss(self, model: nn.Module, images: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        assert isinstance(model, AutoencoderKL)
        mean, logvar = model.encode(images)
        decoded = model.decode(sample_latent(mean, logvar, rng))
        return vae_loss(images, decoded, mean, logvar, kl_weight=self.kl_weight), decoded
