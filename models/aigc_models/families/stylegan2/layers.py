"""Layers of StyleGAN2: linear layers with equalized rates, modulated convolutions, resampling.

Shapes: B batch, I input channels, O output channels, C channels, F filter taps, H height, W width, k kernel.

Weights are drawn from N(0, 1) and scaled while they are used, so that all learn at the same rate (Karras et al. 2018,
"Progressive Growing of GANs", section 4.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "EPSILON",
    "GAIN",
    "SLOPE",
    "EqualizedLinear",
    "Kernel",
    "blur",
    "blur_filter",
    "convolved",
    "leaky",
    "modulated",
    "normalized",
    "upsampled",
]

SLOPE = 0.2
"""Of every LeakyReLU."""
GAIN = math.sqrt(2)
"""Behind every LeakyReLU: keeps the variance."""
EPSILON = 1e-8
"""Of every normalization."""


class EqualizedLinear(nn.Module):
    """y = (g W) x + r b, with g = r / sqrt(inputs).

    Args:
        inputs: size of x.
        outputs: size of y.
        rate: r, by which it learns more slowly.
        bias: that it begins with.
    """

    def __init__(self, inputs: int, outputs: int, *, rate: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.gain, self.rate = rate / math.sqrt(inputs), rate
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def scaled(self) -> tuple[Tensor, Tensor]:
        """Compute weight [outputs, inputs] and bias [outputs] as they are used."""
        return self.weight * self.gain, self.bias * self.rate

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] -> [B, outputs]."""
        return F.linear(x, *self.scaled())

    def folded(self) -> nn.Linear:
        """Make a linear layer whose weights are those that are used here."""
        weight, bias = self.scaled()
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
        return layer


def normalized(x: Tensor) -> Tensor:
    """[B, C] over the root mean square of each row: x / sqrt(sum(x^2) / C + epsilon).

    It is written with the sum, since optimizers of graphs take an addition of 1e-8 for one of nothing (onnxscript
    0.7.2, whose own optimizer is not corrected where our passes do not run).
    """
    size = x.shape[1]
    return x * math.sqrt(size) * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + size * EPSILON)


def leaky(x: Tensor) -> Tensor:
    """LeakyReLU, with the gain that keeps the variance."""
    return F.leaky_relu(x, SLOPE) * GAIN


def blur_filter(taps: int) -> Tensor:
    """Make the binomial filter [F, F], whose sum is 1: for 4 taps the outer product of [1, 3, 3, 1] / 8."""
    row = torch.tensor([math.comb(taps - 1, n) for n in range(taps)], dtype=torch.float32)
    return torch.outer(row, row) / row.sum() ** 2


def blur(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve [B, C, 2H + 1, 2W + 1] with a filter [F, F], as follows a transposed 3x3 convolution: [B, C, 2H, 2W].

    The factor 4 makes up for the zeros between the pixels that were doubled.
    """
    size, channels = kernel.shape[0], x.shape[1]
    rows = (4 * kernel.flip(0, 1)).expand(channels, 1, size, size)
    return F.conv2d(x, rows, padding=size // 2 - 1, groups=channels)


def upsampled(image: Tensor, kernel: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, 2H, 2W]: zeros between the pixels, convolved with a filter [F, F]."""
    size, channels = kernel.shape[0], image.shape[1]
    rows = (4 * kernel).expand(channels, 1, size, size)
    return F.conv_transpose2d(image, rows, stride=2, padding=size // 2 - 1, groups=channels)


def convolved(x: Tensor, weight: Tensor, *, doubled: bool) -> Tensor:
    """[B, I, H, W] by [O, I, k, k] -> [B, O, H, W]; by [I, O, 3, 3], doubled and not yet blurred, of 2H + 1, 2W + 1."""
    return F.conv_transpose2d(x, weight, stride=2) if doubled else F.conv2d(x, weight, padding=weight.shape[-1] // 2)


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """The weight of a modulated convolution as it is used.

    Attributes:
        weight: [O, I, k, k]; [I, O, k, k] where it doubles the sides, as a transposed convolution takes it.
        energy: [O, I], the sum of a channel's squares; None where nothing is demodulated.
        epsilon: added to the energy of a whole output channel.
        filter: [F, F], where it doubles the sides; None where it does not.
    """

    weight: Tensor
    energy: Tensor | None
    epsilon: float
    filter: Tensor | None


def modulated(x: Tensor, styles: Tensor, kernel: Kernel) -> Tensor:
    """Convolve with a weight whose input channels are scaled by a style, and whose outputs then have unit variance.

    The paper scales the weight, which differs from image to image, by s_i (eq. 1) and by the root of its energy (eq. 3,
    demodulation). Convolution is linear: it is the same to scale the input's channels by s_i and the output's by
    1 / sqrt(sum_ik (s_i w_ijk)^2 + epsilon), and one weight then serves all images. The sum over the places k is that
    of constants, so that a product of s_i^2 with `energy` is left.

    Args:
        x: [B, I, H, W].
        styles: [B, I].
        kernel: the weight.

    Returns:
        [B, O, H, W], or [B, O, 2H, 2W].
    """
    x = convolved(x * styles[:, :, None, None], kernel.weight, doubled=kernel.filter is not None)
    if kernel.filter is not None:
        x = blur(x, kernel.filter)
    if kernel.energy is None:
        return x
    scale = torch.rsqrt(F.linear(styles.square(), kernel.energy) + kernel.epsilon)
    return x * scale[:, :, None, None]
