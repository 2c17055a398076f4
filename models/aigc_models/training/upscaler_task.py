"""The `Task` of generators that enlarge pictures: patches of photos, made small and compared with what comes out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.data.photos import PhotoData
from aigc_models.families.degradation import Degradation, degrade
from aigc_models.families.srvgg import SRVGGNet, SRVGGNetConfig
from aigc_models.families.super_resolution import super_resolution_loss
from aigc_models.training.loop import LoopConfig
from aigc_models.training.patch_game import PatchGame

__all__ = ["UpscalerTask", "middle"]

HELD_OUT_PATCHES = 16


class UpscalerTask:
    """L1, and after a warm-up the game against a patch discriminator where it has a weight (ESRGAN, eq. 3)."""

    def __init__(
        self,
        config: SRVGGNetConfig,
        loop: LoopConfig,
        data: PhotoData,
        degradation: Degradation,
        patch: int,
        *,
        gan_weight: float = 0.0,
        device: str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.model: nn.Module = SRVGGNet(config).to(self.device)
        optimizer = torch.optim.Adam(self.model.parameters(), lr=loop.learning_rate, betas=(0.9, 0.99))
        self.optimizers: dict[str, torch.optim.Optimizer] = {"model": optimizer}
        self.extra: dict[str, nn.Module] = {}
        self.game = PatchGame(config.channels, loop, gan_weight, device) if gan_weight else None
        if self.game is not None:
            self.optimizers["discriminator"] = self.game.optimizer
            self.extra["discriminator"] = self.game.discriminator
        self.config, self.loop, self.data, self.degradation, self.patch = config, loop, data, degradation, patch

    def step(self, rng: torch.Generator) -> dict[str, float]:
        """Update the generator once, and the discriminator, where the game has begun."""
        targets = _patches(self.data.train, self.patch, self.loop.batch_size, rng)
        images, targets = degrade(targets, self.degradation, rng).to(self.device), targets.to(self.device)
        optimizer, game = self.optimizers["model"], self.game
        predicted = self.model(images)
        if game is None or not game.has_begun(optimizer):
            loss = super_resolution_loss(predicted, targets)
        else:
            logits = game.discriminator(predicted)
            loss = super_resolution_loss(predicted, targets, logits=logits, gan=game.loss, gan_weight=game.weight)
        losses = {"loss": loss.item()}
        has_begun = game is not None and game.has_begun(optimizer)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.loop.max_grad_norm)
        optimizer.step()
        if game is not None and has_begun:
            losses["discriminator"] = game.update(targets, predicted)
        return losses

    def held_out_loss(self, model: nn.Module) -> float | None:
        """Compute L1 on the middles of photos that were held out, always made small in the same way."""
        photos = self.data.held_out[:HELD_OUT_PATCHES]
        targets = torch.stack([middle(photo, self.patch, self.patch) for photo in photos])
        images = degrade(targets, self.degradation, torch.Generator().manual_seed(0)).to(self.device)
        return F.l1_loss(model(images), targets.to(self.device)).item()


def middle(photo: Tensor, height: int, width: int) -> Tensor:
    """Cut the middle out of a photo: uint8 [C, H, W] -> float32 [C, height, width] in [0, 1]."""
    top, left = (photo.shape[1] - height) // 2, (photo.shape[2] - width) // 2
    return photo[:, top : top + height, left : left + width].float() / 255


def _patches(photos: Sequence[Tensor], side: int, count: int, rng: torch.Generator) -> Tensor:
    """Draw [count, C, side, side] in [0, 1], so that few photos are many.

    Each is turned and mirrored in one of the eight ways, its colors are in any order, and one in two is taken from the
    photo at half its size, where it is large enough: photos are sharper there than the camera drew them.
    """

    def draw(below: int) -> int:
        return int(torch.randint(below, (1,), generator=rng))

    drawn = []
    for _ in range(count):
        photo = photos[draw(len(photos))]
        factor = 1 + draw(2) if min(photo.shape[1:]) >= 2 * side else 1
        own = factor * side
        top, left = draw(photo.shape[1] - own + 1), draw(photo.shape[2] - own + 1)
        patch = F.avg_pool2d(photo[:, top : top + own, left : left + own].float() / 255, factor)
        patch = patch[torch.randperm(len(patch), generator=rng)]
        if draw(2):
            patch = patch.flip(2)
        drawn.append(patch.rot90(draw(4), (1, 2)))
    return torch.stack(drawn)
