"""The `Task`s that the loop runs, one per family: each defines one training step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aigc_models.data.image_data import ImageData
from aigc_models.data.text_data import TextData
from aigc_models.families.classifier import Classifier, ClassifierConfig, classification_loss
from aigc_models.families.diffusion import Conditions, PredictionType, diffusion_loss
from aigc_models.families.gan import (
    Discriminator,
    DiscriminatorConfig,
    GanLoss,
    Generator,
    GeneratorConfig,
    min_max_step,
)
from aigc_models.families.lm import TransformerLM, next_token_loss
from aigc_models.families.lm_config import LMConfig
from aigc_models.families.unet import UNet, UNetConfig
from aigc_models.training.loop import LoopConfig
from aigc_runtime.generation.schedules import ScheduleConfig, alphas_cumprod

__all__ = ["ClassifierTask", "GanTask", "LMTask", "UNetTask", "reestimate_batch_norm"]


HELD_OUT_ROWS = 64
"""Images that the loss on held-out data is measured on, at most."""
HELD_OUT_WINDOWS = 16
"""Windows of text that it is measured on."""


class _SingleModelTask:
    """One module, one optimizer, one loss.

    All random numbers are drawn on the processor, so that every device trains on the same ones.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, loop: LoopConfig, device: str) -> None:
        self.model = model.to(device)  # in place: the optimizer holds the same parameters
        self.optimizers = {"model": optimizer}
        self.extra: dict[str, nn.Module] = {}
        self.loop = loop
        self.device = torch.device(device)

    def _descend(self, loss: Tensor) -> dict[str, float]:
        optimizer = self.optimizers["model"]
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.loop.max_grad_norm)
        optimizer.step()
        return {"loss": loss.item()}


class LMTask(_SingleModelTask):
    """Next-token prediction on random windows of a text (AdamW, betas 0.9 and 0.95)."""

    def __init__(self, config: LMConfig, loop: LoopConfig, text: TextData, window: int, *, device: str = "cpu") -> None:
        model = TransformerLM(config)
        decayed = [p for p in model.parameters() if p.dim() > 1]
        rest = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
        super().__init__(model, torch.optim.AdamW(groups, lr=loop.learning_rate, betas=(0.9, 0.95)), loop, device)
        self.text = torch.from_numpy(text.train.copy())
        self.held_out = torch.from_numpy(text.held_out.copy())
        self.window = window

    def step(self, rng: torch.Generator) -> dict[str, float]:
        """Update the weights once."""
        starts = torch.randint(len(self.text) - self.window, (self.loop.batch_size,), generator=rng)
        return self._descend(self._loss(self.model, self.text, starts))

    def held_out_loss(self, model: nn.Module) -> float | None:
        """Compute the loss on windows spread over the held-out text."""
        last = len(self.held_out) - self.window
        if last < 0:
            return None
        return self._loss(model, self.held_out, torch.linspace(0, last, HELD_OUT_WINDOWS).long()).item()

    def _loss(self, model: nn.Module, text: Tensor, starts: Tensor) -> Tensor:
        ids = torch.stack([text[s : s + self.window] for s in starts.tolist()]).long().to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = model(ids).logits
        return next_token_loss(logits.float(), ids)


class UNetTask(_SingleModelTask):
    """Noise (or velocity) prediction with dropped conditions."""

    def __init__(
        self,
        config: UNetConfig,
        loop: LoopConfig,
        data: ImageData,
        schedule: ScheduleConfig,
        condition_dropout: float,
        *,
        device: str = "cpu",
    ) -> None:
        model = UNet(config)
        # A zero last layer starts from the prediction "no noise" instead of random noise (Ho 2020's code).
        nn.init.zeros_(model.conv_out.weight)
        optimizer = torch.optim.AdamW(model.parameters(), lr=loop.learning_rate, weight_decay=1e-4)
        super().__init__(model, optimizer, loop, device)
        self.config = config
        self.data = data
        self.prediction_type: PredictionType = schedule.prediction_type
        self.alphas_cumprod = torch.from_numpy(alphas_cumprod(schedule)).float().to(self.device)
        self.condition_dropout = condition_dropout

    def step(self, rng: torch.Generator) -> dict[str, float]:
        """Update the weights once."""
        rows = torch.randint(len(self.data.train), (self.loop.batch_size,), generator=rng)
        images, labels = self.data.train[rows], self.data.train_labels[rows]
        return self._descend(self._loss(self.model, images, labels, rng, self.condition_dropout))

    def held_out_loss(self, model: nn.Module) -> float | None:
        """Compute the loss with the same noise every time."""
        return self.loss_on_held_out(model, seed=0)

    def loss_on_held_out(self, model: nn.Module, seed: int) -> float | None:
        """Compute the loss with the noise of a seed; None where nothing is held out."""
        images, labels = self.data.held_out[:HELD_OUT_ROWS], self.data.held_out_labels[:HELD_OUT_ROWS]
        if not len(images):
            return None
        return self._loss(model, images, labels, torch.Generator().manual_seed(seed), 0.0).item()

    def _loss(self, model: nn.Module, images: Tensor, labels: Tensor, rng: torch.Generator, dropout: float) -> Tensor:
        assert isinstance(model, UNet)
        return diffusion_loss(
            model,
            images.to(self.device),
            Conditions(labels.to(self.device) if self.config.num_class_embeds is not None else None),
            alphas_cumprod=self.alphas_cumprod,
            prediction_type=self.prediction_type,
            rng=rng,
            condition_dropout=dropout,
        )


class GanTask:
    """The min-max game; the generator is the result."""

    def __init__(
        self,
        config: GeneratorConfig,
        discriminator: DiscriminatorConfig,
        loop: LoopConfig,
        data: ImageData,
        loss: GanLoss,
        *,
        device: str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.generator = Generator(config).to(self.device)
        self.discriminator = Discriminator(discriminator).to(self.device)
        self.model: nn.Module = self.generator
        self.extra: dict[str, nn.Module] = {"discriminator": self.discriminator}
        # Two time scales (Heusel et al. 2017): the discriminator learns twice as fast.
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "generator": torch.optim.Adam(self.generator.parameters(), lr=loop.learning_rate, betas=(0.0, 0.9)),
            "discriminator": torch.optim.Adam(
                self.discriminator.parameters(), lr=2 * loop.learning_rate, betas=(0.0, 0.9)
            ),
        }
        self.loop, self.data, self.loss = loop, data, loss

    def step(self, rng: torch.Generator) -> dict[str, float]:
        """Update each side once."""
        self.discriminator.train()
        rows = torch.randint(len(self.data.train), (self.loop.batch_size,), generator=rng)
        d_loss, g_loss = min_max_step(
            self.generator,
            self.discriminator,
            self.optimizers["generator"],
            self.optimizers["discriminator"],
            images=self.data.train[rows].to(self.device),
            class_labels=self.data.train_labels[rows].to(self.device),
            loss=self.loss,
            rng=rng,
            max_grad_norm=self.loop.max_grad_norm,
        )
        return {"discriminator": d_loss, "generator": g_loss}

    def held_out_loss(self, model: nn.Module) -> float | None:
        """None: the two losses say how the game stands, not how good the images are."""
        return None


@torch.no_grad()
def reestimate_batch_norm(generator: Generator, *, batches: int, seed: int) -> None:
    """Recompute BatchNorm statistics for averaged weights, which no training batch has ever run through.

    (Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima", section 3.2.)
    """
    rng = torch.Generator().manual_seed(seed)
    device = next(generator.parameters()).device
    norms = [m for m in generator.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean over all batches
    generator.train()
    for _ in range(batches):
        latents = torch.randn(128, generator.config.latent_size, generator=rng)
        labels = torch.randint(generator.config.num_classes, (128,), generator=rng)
        generator(latents.to(device), labels.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    generator.eval()


class ClassifierTask(_SingleModelTask):
    """Cross-entropy on slightly noisy images, so that the classifier does not depend on single gray levels."""

    def __init__(self, config: ClassifierConfig, loop: LoopConfig, data: ImageData, *, device: str = "cpu") -> None:
        model = Classifier(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=loop.learning_rate, weight_decay=1e-2)
        super().__init__(model, optimizer, loop, device)
        self.data = data

    def step(self, rng: torch.Generator) -> dict[str, float]:
        """Update the weights once."""
        rows = torch.randint(len(self.data.train), (self.loop.batch_size,), generator=rng)
        clean = self.data.train[rows]
        images = clean + 0.1 * torch.randn(clean.shape, generator=rng)
        return self._descend(self._loss(self.model, images, self.data.train_labels[rows]))

    def held_out_loss(self, model: nn.Module) -> float | None:
        """Compute the loss on clean images."""
        images, labels = self.data.held_out[:HELD_OUT_ROWS], self.data.held_out_labels[:HELD_OUT_ROWS]
        return self._loss(model, images, labels).item() if len(images) else None

    def _loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return classification_loss(model(images.to(self.device)), labels.to(self.device))
