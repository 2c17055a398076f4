"""The training step of StyleGAN2, with its two regularizers taken now and then.

Shapes: B batch, Z latent size, S size of w, N styles of an image.

Reference:
    Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (arXiv:1912.04958): section 3.1 (lazy
    regularization), section 3.2 (path lengths), appendix B.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aigc_models.data.image_data import ImageData
from aigc_models.families.gan import non_saturating_loss
from aigc_models.families.stylegan2.config import StyleGAN2Config
from aigc_models.families.stylegan2.discriminator import ResidualDiscriminator, ResidualDiscriminatorConfig
from aigc_models.families.stylegan2.generator import StyleGAN2
from aigc_models.families.stylegan2.regularization import path_length_penalty, path_lengths, r1_penalty
from aigc_models.training.loop import LoopConfig

__all__ = ["Regularization", "StyleGAN2Task", "lazy_adam"]

BETAS = (0.0, 0.99)
EPSILON = 1e-8
"""Of Adam, as its betas (appendix B)."""


@dataclass(frozen=True, kw_only=True)
class Regularization:
    """How the two sides are kept smooth.

    Attributes:
        r1_weight: gamma of R1 on real images.
        r1_every: steps from one R1 to the next.
        path_weight: of the regularizer of path lengths.
        path_every: steps from one to the next; it sees half a batch, as the authors' training does.
        mixing: share of the batches whose late layers take the style of other latents (StyleGAN, section 3.1).
    """

    r1_weight: float = 0.1
    r1_every: int = 16
    path_weight: float = 2.0
    path_every: int = 4
    mixing: float = 0.9


def lazy_adam(parameters: list[nn.Parameter], learning_rate: float, every: int) -> torch.optim.Adam:
    """Make Adam for a side that takes k + 1 steps where others take k: one more for its regularizer every k.

    Rate and betas are those whose effect over k + 1 steps is that of k: c lr and beta^c with c = k / (k + 1)
    (appendix B).

    >>> lazy_adam([nn.Parameter(torch.zeros(1))], 0.005, 4).defaults["lr"]
    0.004
    """
    c = every / (every + 1)
    return torch.optim.Adam(parameters, lr=learning_rate * c, betas=(BETAS[0] ** c, BETAS[1] ** c), eps=EPSILON)


class _Progress(nn.Module):
    """What is carried from step to step: saved with the weights, so that a run goes on bit for bit.

    Attributes:
        steps: taken so far.
        path_mean: a of the regularizer of path lengths (eq. 4).
        r1: the last one, for the loss curve.
        path_length: the last regularizer of path lengths, likewise.
    """

    steps: Tensor
    path_mean: Tensor
    r1: Tensor
    path_length: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        for name in ("path_mean", "r1", "path_length"):
            self.register_buffer(name, torch.zeros(()))


class StyleGAN2Task:
    """The min-max game with the non-saturating loss; the generator is the result.

    All random numbers are drawn on the processor, so that every device trains on the same ones.
    """

    def __init__(
        self,
        config: StyleGAN2Config,
        discriminator: ResidualDiscriminatorConfig,
        loop: LoopConfig,
        data: ImageData,
        regularization: Regularization,
        *,
        device: str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.generator = StyleGAN2(config).to(self.device)
        self.discriminator = ResidualDiscriminator(discriminator).to(self.device)
        self.progress = _Progress().to(self.device)
        self.model: nn.Module = self.generator
        self.extra: dict[str, nn.Module] = {"discriminator": self.discriminator, "progress": self.progress}
        rate = loop.learning_rate
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "generator": lazy_adam(list(self.generator.parameters()), rate, regularization.path_every),
            "discriminator": lazy_adam(list(self.discriminator.parameters()), rate, regularization.r1_every),
        }
        self.loop, self.data, self.regularization = loop, data, regularization

    def step(self, rng: torch.Generator) -> dict[str, float]:
        """Update each side once, and once more for its regularizer where that is due."""
        step, chosen = int(self.progress.steps), self.regularization
        images, labels = self._real(rng)
        d_loss, g_loss = self._discriminator_step(images, labels, rng), self._generator_step(rng)
        if step % chosen.r1_every == 0:
            self._r1_step(images, labels)
        if step % chosen.path_every == 0:
            self._path_step(rng)
        self.progress.steps += 1
        last = {"r1": self.progress.r1.item(), "path_length": self.progress.path_length.item()}
        return {"discriminator": d_loss, "generator": g_loss, **last}

    def held_out_loss(self, model: nn.Module) -> float | None:
        """None: the two losses say how the game stands, not how good the images are."""
        return None

    def _real(self, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        rows = torch.randint(len(self.data.train), (self.loop.batch_size,), generator=rng)
        labels = self.data.train_labels[rows].to(self.device) if self._classes is not None else None
        return self.data.train[rows].to(self.device), labels

    @property
    def _classes(self) -> int | None:
        return self.generator.config.num_classes

    def _discriminator_step(self, images: Tensor, labels: Tensor | None, rng: torch.Generator) -> float:
        with torch.no_grad():
            fake, fake_labels, _ = self._fake(self.loop.batch_size, rng)
        loss = non_saturating_loss.discriminator(
            self.discriminator(images, labels), self.discriminator(fake, fake_labels)
        )
        return self._descend("discriminator", self.discriminator, loss)

    def _generator_step(self, rng: torch.Generator) -> float:
        fake, labels, w = self._fake(self.loop.batch_size, rng)
        self.generator.mapping.track(w.detach())
        loss = non_saturating_loss.generator(self.discriminator(fake, labels))
        return self._descend("generator", self.generator, loss)

    def _r1_step(self, images: Tensor, labels: Tensor | None) -> None:
        """Take R1, which counts k times where it is due every k steps (section 3.1)."""
        images = images.detach().requires_grad_()
        penalty = r1_penalty(self.discriminator(images, labels), images, self.regularization.r1_weight)
        self._descend("discriminator", self.discriminator, penalty * self.regularization.r1_every)
        self.progress.r1.copy_(penalty.detach())

    def _path_step(self, rng: torch.Generator) -> None:
        latents, labels = self._latents(max(1, self.loop.batch_size // 2), rng)
        styles = self._styles(self.generator.mapping(latents, labels), labels, rng)
        lengths = path_lengths(self.generator.synthesis(styles, self._noise(len(latents), rng)), styles, rng=rng)
        penalty, mean = path_length_penalty(lengths, self.progress.path_mean, weight=self.regularization.path_weight)
        self._descend("generator", self.generator, penalty * self.regularization.path_every)
        self.progress.path_mean.copy_(mean)
        self.progress.path_length.copy_(penalty.detach())

    def _fake(self, rows: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None, Tensor]:
        """Generate images: (images, their classes, their w)."""
        latents, labels = self._latents(rows, rng)
        w = self.generator.mapping(latents, labels)
        return self.generator.synthesis(self._styles(w, labels, rng), self._noise(rows, rng)), labels, w

    def _latents(self, rows: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        latents = torch.randn(rows, self.generator.config.z_size, generator=rng).to(self.device)
        if self._classes is None:
            return latents, None
        return latents, torch.randint(self._classes, (rows,), generator=rng).to(self.device)

    def _styles(self, w: Tensor, labels: Tensor | None, rng: torch.Generator) -> Tensor:
        """[B, S] -> [B, N, S]; in some batches with the style of other latents of the same classes in late layers."""
        first = int(torch.randint(1, self.generator.config.num_ws, (), generator=rng))
        other = torch.randn(len(w), self.generator.config.z_size, generator=rng).to(self.device)
        if torch.rand((), generator=rng).item() >= self.regularization.mixing:
            return self.generator.styles(w)
        return self.generator.mixed(w, self.generator.mapping(other, labels), first)

    def _noise(self, rows: int, rng: torch.Generator) -> list[Tensor]:
        return [tensor.to(self.device) for tensor in self.generator.synthesis.draw_noise(rows, rng)]

    def _descend(self, name: str, module: nn.Module, loss: Tensor) -> float:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(module.parameters(), self.loop.max_grad_norm)
        optimizer.step()
        return loss.item()
