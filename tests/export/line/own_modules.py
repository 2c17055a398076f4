"""Modules as users have them: nobody adapted them to this package."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each of all before it (ESRGAN, section 3.1)."""

    def __init__(self, width: int = 8, growth: int = 4) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(width + i * growth, growth if i < 4 else width, 3, padding=1) for i in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        held = [x]
        for conv in self.convs[:4]:
            held.append(F.leaky_relu(conv(torch.cat(held, 1)), 0.2))
        result: Tensor = x + 0.2 * self.convs[4](torch.cat(held, 1))
        return result


class RRDBNet(nn.Module):
    """A super-resolution network by a factor of four."""

    def __init__(self, width: int = 8, blocks: int = 1) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(
            *(nn.Sequential(*(ResidualDenseBlock(width) for _ in range(3))) for _ in range(blocks))
        )
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        features = self.conv_first(image)
        features = features + self.conv_body(self.body(features))
        for conv in (self.conv_up1, self.conv_up2):
            features = F.leaky_relu(conv(F.interpolate(features, scale_factor=2, mode="nearest")), 0.2)
        large: Tensor = self.conv_last(features)
        return large


class ScaleShiftBlock(nn.Module):
    """A residual block whose norm is scaled and shifted by the time (ADM)."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, inputs), nn.GroupNorm(4, outputs)
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, 2 * outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.time(F.silu(time))[:, :, None, None].chunk(2, 1)
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.norm2(hidden) * (1 + scale) + shift
        result: Tensor = self.skip(x) + self.conv2(F.silu(hidden))
        return result


class ScaleShiftUNet(nn.Module):
    """Two levels, skip connections, the time by sines and cosines."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.down = ScaleShiftBlock(width, 2 * width, 4 * width)
        self.middle = ScaleShiftBlock(2 * width, 2 * width, 4 * width)
        self.up = ScaleShiftBlock(3 * width, width, 4 * width)
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        half = self.width // 2
        angles = t.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        first = self.first(x)
        hidden = self.middle(self.down(F.avg_pool2d(first, 2), time), time)
        hidden = F.interpolate(hidden, scale_factor=2, mode="nearest")
        noise: Tensor = self.last(self.up(torch.cat([hidden, first], 1), time))
        return noise


class DCGAN(nn.Module):
    """The generator of DCGAN (figure 1), for images of 16x16."""

    def __init__(self, latent: int = 16, width: int = 8) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(latent, 2 * width, 4, 1, 0, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(True),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(True),
            nn.ConvTranspose2d(width, 1, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        image: Tensor = self.main(z)
        return image


class Encoder(nn.Module):
    """PyTorch's own Transformer encoder over ids with a padding mask."""

    def __init__(self, vocabulary: int = 50, width: int = 16) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden = self.layers(self.table(batch["ids"]), src_key_padding_mask=~batch["mask"])
        kept = hidden * batch["mask"][..., None]
        return {"hidden": kept, "pooled": kept.sum(1) / batch["mask"].sum(1, keepdim=True)}


class LSTMStep(nn.Module):
    """One step of an LSTM, its two states handed in and out."""

    def __init__(self, inputs: int = 4, width: int = 8) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(inputs, width)
        self.head = nn.Linear(width, inputs)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, c = self.cell(x, (h, c))
        return self.head(h), h, c
