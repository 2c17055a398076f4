"""What the diffusion UNet sees of the time: sines and cosines of a step, of a noise level, or a learned table.

Shapes: B batch, C channels, H height, W width, n numbers of one step, S sizes.

References:
    Vaswani et al. 2017: sinusoidal embedding, section 3.5. Song et al. 2021, "Score-Based Generative Modeling through
    Stochastic Differential Equations": appendix C.2 (Fourier features of the noise level).
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor, nn

from aigc_models.families.unet_config import UNetConfig

__all__ = ["Sinusoid", "TimeProj", "embed_sizes", "make_time_proj"]

FOURIER_SCALE = 16.0
"""Deviation of the frequencies of a Fourier embedding (Song et al. 2021, appendix C.2)."""


class Sinusoid(nn.Module):
    """[B] -> [B, n]: sin and cos of t * 10000^(-i / (n/2 - freq_shift)) (Vaswani 2017, section 3.5)."""

    def __init__(self, size: int, *, flip_sin_to_cos: bool, freq_shift: int) -> None:
        super().__init__()
        self.size = size
        self.flip_sin_to_cos, self.freq_shift = flip_sin_to_cos, freq_shift

    def forward(self, timestep: Tensor) -> Tensor:
        """[B] -> [B, n] float32."""
        half = self.size // 2
        # Multiplied before it is divided, as the library does: at t = 1000 an ulp of a frequency is 6e-5 of an angle.
        exponent = -math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=timestep.device)
        angle = timestep.float().unsqueeze(1) * torch.exp(exponent / (half - self.freq_shift))
        parts = (angle.cos(), angle.sin()) if self.flip_sin_to_cos else (angle.sin(), angle.cos())
        return torch.cat(parts, dim=1)

    def finish(self, out: Tensor, _timestep: Tensor) -> Tensor:
        """The output as it is."""
        return out


class Fourier(nn.Module):
    """[B] -> [B, n]: sin and cos of 2 pi w log(t) at n/2 frequencies w, drawn once and never trained."""

    def __init__(self, frequencies: int) -> None:
        super().__init__()
        self.size = 2 * frequencies
        self.weight = nn.Parameter(torch.randn(frequencies) * FOURIER_SCALE, requires_grad=False)

    def forward(self, timestep: Tensor) -> Tensor:
        """[B] -> [B, n], of levels above 0."""
        angle = timestep.to(self.weight.dtype).log().unsqueeze(1) * self.weight * 2 * math.pi
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    def finish(self, out: Tensor, timestep: Tensor) -> Tensor:
        """The output [B, C, H, W] divided by the noise level: the score of data with so much noise."""
        return out / timestep.to(out.dtype).view(-1, 1, 1, 1)


class Learned(nn.Embedding):
    """[B] -> [B, n]: a learned row for each training step; a fraction of a step is cut off."""

    def __init__(self, steps: int, size: int) -> None:
        super().__init__(steps, size)
        self.size = size

    def forward(self, timestep: Tensor) -> Tensor:
        """[B] -> [B, n]."""
        return super().forward(timestep.long())

    def finish(self, out: Tensor, _timestep: Tensor) -> Tensor:
        """The output as it is."""
        return out


def embed_sizes(sizes_BS: Tensor, sinusoid: Sinusoid) -> Tensor:
    """[B, S] -> [B, S n]: each size in sines and cosines, as a step is (Podell et al. 2023, section 2.2)."""
    batch, count = sizes_BS.shape
    out: Tensor = sinusoid(sizes_BS.flatten()).view(batch, count * sinusoid.size)
    return out


TimeProj: TypeAlias = Sinusoid | Fourier | Learned


def make_time_proj(config: UNetConfig) -> TimeProj:
    """Make the first part of the time embedding, which has weights of its own unless it is positional."""
    n = config.block_out_channels[0]
    if config.time_embedding_type == "fourier":
        return Fourier(n)
    if config.time_embedding_type == "learned":
        return Learned(config.num_train_timesteps or 1, n)
    return Sinusoid(n, flip_sin_to_cos=config.flip_sin_to_cos, freq_shift=config.freq_shift)
