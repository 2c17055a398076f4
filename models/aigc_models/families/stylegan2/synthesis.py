"""The synthesis network of StyleGAN2: styles and noise -> image.

Shapes: B batch, N styles of an image, S size of w, I input channels, O output channels, C image channels, R side.

Reference:
    Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (arXiv:1912.04958): figure 2d (layers),
    figure 7 (skip architecture), appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from aigc_models.families.stylegan2.config import BASE_SIDE, StyleGAN2Config
from aigc_models.families.stylegan2.layers import (
    EPSILON,
    EqualizedLinear,
    Kernel,
    blur_filter,
    leaky,
    modulated,
    upsampled,
)
from aigc_runtime.errors import ConfigError

__all__ = ["Noise", "SynthesisBlock", "SynthesisLayer", "SynthesisNetwork", "ToRGB"]

Noise = Literal["constant", "none"] | list[Tensor]
"""What is added to the outputs of the 3x3 convolutions: what was learned with, nothing, or a standard normal tensor
[B or 1, 1, R, R] for each."""


class SynthesisLayer(nn.Module):
    """A modulated 3x3 convolution, noise, bias and LeakyReLU.

    Args:
        config: of the generator.
        inputs: I.
        outputs: O.
        side: R of its output.
        up: whether it doubles the sides.
    """

    resample_filter: Tensor

    def __init__(self, config: StyleGAN2Config, inputs: int, outputs: int, *, side: int, up: bool) -> None:
        super().__init__()
        self.up, self.clamp = up, config.clamp
        self.affine = EqualizedLinear(config.w_size, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("resample_filter", blur_filter(config.filter_size))
        self.noise_const: Tensor | None
        self.register_buffer("noise_const", torch.randn(side, side) if config.noise else None)
        self.noise_strength = nn.Parameter(torch.zeros(())) if config.noise else None

    def kernel(self) -> Kernel:
        """Compute the weight as it is used.

        Demodulation undoes any factor of a weight. This one keeps sums of products as large as their terms, so that
        16 bits hold them.
        """
        gain = 1 / math.sqrt(self.weight[0].numel())
        weight = self.weight * gain
        return Kernel(
            weight=weight.transpose(0, 1) if self.up else weight,
            energy=weight.square().sum(dim=(2, 3)),
            epsilon=EPSILON * gain**2,
            filter=self.resample_filter if self.up else None,
        )

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """Run the layer.

        Args:
            x: [B, I, R, R], of half the side where it is doubled.
            w: [B, S].
            noise: [B or 1, 1, R, R], or None.

        Returns:
            [B, O, R, R].
        """
        strength = self.noise_strength
        added = None if noise is None or strength is None else noise * strength
        return finished(modulated(x, self.affine(w), self.kernel()), added, self.bias, self.clamp)


def finished(x: Tensor, noise: Tensor | None, bias: Tensor, clamp: float | None) -> Tensor:
    """Add noise and bias to a convolution's output, and apply LeakyReLU."""
    x = x if noise is None else x + noise
    return clamped(leaky(x + bias[:, None, None]), clamp)


def clamped(x: Tensor, limit: float | None) -> Tensor:
    """Hold activations within +- a limit; None does not."""
    return x if limit is None else x.clamp(-limit, limit)


class ToRGB(nn.Module):
    """A modulated 1x1 convolution without demodulation: features -> colors.

    Args:
        config: of the generator.
        inputs: I.
    """

    def __init__(self, config: StyleGAN2Config, inputs: int) -> None:
        super().__init__()
        self.clamp = config.clamp
        self.affine = EqualizedLinear(config.w_size, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(config.image_channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(config.image_channels))

    def kernel(self) -> Kernel:
        """Compute the weight as it is used."""
        return Kernel(weight=self.weight / math.sqrt(self.weight.shape[1]), energy=None, epsilon=0.0, filter=None)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """[B, I, R, R] and [B, S] -> [B, C, R, R]."""
        return clamped(modulated(x, self.affine(w), self.kernel()) + self.bias[:, None, None], self.clamp)


class SynthesisBlock(nn.Module):
    """Two layers, of which the first doubles the sides, and what they add to the image. The first block has one layer.

    Args:
        config: of the generator.
        level: 0 for the block of 4x4, 1 for that of 8x8 and so on.
    """

    resample_filter: Tensor

    def __init__(self, config: StyleGAN2Config, level: int) -> None:
        super().__init__()
        side, outputs = config.sides[level], config.channels[level]
        self.register_buffer("resample_filter", blur_filter(config.filter_size))
        if level:
            self.conv0 = SynthesisLayer(config, config.channels[level - 1], outputs, side=side, up=True)
        else:
            self.const = nn.Parameter(torch.randn(outputs, BASE_SIDE, BASE_SIDE))
        self.conv1 = SynthesisLayer(config, outputs, outputs, side=side, up=False)
        self.torgb = ToRGB(config, outputs)

    def layers(self) -> tuple[SynthesisLayer, ...]:
        """List the 3x3 layers in their order."""
        return (self.conv0, self.conv1) if hasattr(self, "conv0") else (self.conv1,)


class SynthesisNetwork(nn.Module):
    """A learned constant through blocks of growing side, each of which adds to the image.

    Args:
        config: of the generator.
    """

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config = config
        for level, side in enumerate(config.sides):
            self.add_module(f"b{side}", SynthesisBlock(config, level))

    def blocks(self) -> Iterator[SynthesisBlock]:
        """List the blocks, the smallest first."""
        for side in self.config.sides:
            block = self.get_submodule(f"b{side}")
            assert isinstance(block, SynthesisBlock)
            yield block

    def forward(self, ws: Tensor, noise: Noise = "constant") -> Tensor:
        """Make images.

        Args:
            ws: [B, N, S], a style for each layer.
            noise: of the 3x3 layers.

        Returns:
            [B, C, R, R]; most of it is in [-1, 1].

        Raises:
            ConfigError: another number of styles, or of noise tensors.
        """
        config = self.config
        if ws.shape[1:] != (config.num_ws, config.w_size):
            raise ConfigError(f"ws has shape {list(ws.shape)}, expected [B, {config.num_ws}, {config.w_size}]")
        noises = iter(self._noises(noise))
        image: Tensor | None = None
        x, place = ws.new_empty(0), 0
        for block in self.blocks():
            if image is None:
                x = block.const.expand(ws.shape[0], -1, -1, -1)
            for layer in block.layers():
                x = layer(x, ws[:, place], next(noises))
                place += 1
            colors = block.torgb(x, ws[:, place])
            image = colors if image is None else upsampled(image, block.resample_filter) + colors
        assert image is not None
        return image

    def _noises(self, noise: Noise) -> list[Tensor | None]:
        layers = [layer for block in self.blocks() for layer in block.layers()]
        if noise == "constant":
            return [layer.noise_const for layer in layers]
        if noise == "none":
            return [None] * len(layers)
        if not isinstance(noise, list) or len(noise) != len(self.config.noise_sides):
            what = f"{len(noise)} tensors" if isinstance(noise, list) else repr(noise)
            raise ConfigError(
                f"noise is {what}", hint=f"'constant', 'none' or {len(self.config.noise_sides)} tensors are valid"
            )
        return [*noise] or [None] * len(layers)

    def draw_noise(self, batch: int, rng: torch.Generator | None = None) -> list[Tensor]:
        """Draw standard normal noise for every layer: [B, 1, R, R] each."""
        return [torch.randn(batch, 1, side, side, generator=rng) for side in self.config.noise_sides]
