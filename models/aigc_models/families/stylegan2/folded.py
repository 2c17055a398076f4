"""The synthesis network as it is exported: what depends on the weights alone is computed once.

An exporter writes `weight * gain` as a product that every run computes again, and a convolution whose weight is
computed cannot have few bits. Here the scaled weights, their energies and the constant noise are tensors, and every
step has a module of its own, by whose name it can be kept float.

Shapes: B batch, N styles of an image, S size of w, I input channels, O output channels, C image channels, F filter
taps, R side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from aigc_models.families.stylegan2.layers import Kernel, blur, convolved, upsampled
from aigc_models.families.stylegan2.synthesis import SynthesisLayer, SynthesisNetwork, ToRGB, clamped, finished

__all__ = ["FoldedSynthesis", "NoiseMode"]

NoiseMode = Literal["constant", "random", "none"]
"""What is added to the outputs of the 3x3 convolutions: what was learned with, an input of the graph, or nothing."""


class Convolution(nn.Module):
    """A convolution with one weight for all images.

    Args:
        kernel: of a layer.
    """

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.doubled = kernel.filter is not None
        self.weight = nn.Parameter(kernel.weight.detach().contiguous(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """See `convolved`."""
        return convolved(x, self.weight, doubled=self.doubled)


class Filter(nn.Module):
    """A filter of constant taps: behind a convolution that doubles the sides, or one that doubles an image's.

    Args:
        taps: [F, F].
        apply: `blur` or `upsampled`.
    """

    taps: Tensor

    def __init__(self, taps: Tensor, apply: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.register_buffer("taps", taps)
        self._filtered = apply

    def forward(self, x: Tensor) -> Tensor:
        """See `blur` and `upsampled`."""
        return self._filtered(x, self.taps)


class Demodulation(nn.Module):
    """Styles -> factors of the output channels: a product of the squared styles with constants.

    Args:
        energy: [O, I].
        epsilon: added to the energy of an output channel.
    """

    def __init__(self, energy: Tensor, epsilon: float) -> None:
        super().__init__()
        self.energy = nn.Linear(energy.shape[1], energy.shape[0])
        self.energy.load_state_dict({"weight": energy.detach(), "bias": torch.full((len(energy),), epsilon)})

    def forward(self, styles: Tensor) -> Tensor:
        """[B, I] -> [B, O]."""
        return torch.rsqrt(self.energy(styles.square()))


class FoldedLayer(nn.Module):
    """A `SynthesisLayer` of constants.

    Args:
        layer: that was trained.
        noise: what it adds.
    """

    added: Tensor | None

    def __init__(self, layer: SynthesisLayer, noise: NoiseMode) -> None:
        super().__init__()
        kernel = layer.kernel()
        assert kernel.energy is not None
        self.clamp, self.affine, self.conv = layer.clamp, layer.affine.folded(), Convolution(kernel)
        self.blur = nn.Identity() if kernel.filter is None else Filter(kernel.filter, blur)
        self.demodulation = Demodulation(kernel.energy, kernel.epsilon)
        self.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
        added = None
        if layer.noise_strength is not None and layer.noise_const is not None:
            strength = layer.noise_strength
            added = {"constant": layer.noise_const * strength, "random": strength, "none": None}[noise]
        self.register_buffer("added", None if added is None else added.detach())

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """As in `SynthesisLayer`; `noise` is given where it is an input."""
        styles: Tensor = self.affine(w)
        x = self.blur(self.conv(x * styles[:, :, None, None])) * self.demodulation(styles)[:, :, None, None]
        return finished(
            x, self.added if noise is None or self.added is None else noise * self.added, self.bias, self.clamp
        )


class FoldedToRGB(nn.Module):
    """A `ToRGB` of constants.

    Args:
        layer: that was trained.
    """

    def __init__(self, layer: ToRGB) -> None:
        super().__init__()
        self.clamp, self.affine, self.conv = layer.clamp, layer.affine.folded(), Convolution(layer.kernel())
        self.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """As in `ToRGB`."""
        styles: Tensor = self.affine(w)
        return clamped(self.conv(x * styles[:, :, None, None]) + self.bias[:, None, None], self.clamp)


class FoldedSynthesis(nn.Module):
    """A `SynthesisNetwork` of constants, with noise of one kind.

    Args:
        network: that was trained.
        noise: what its 3x3 layers add: with `random`, inputs of their own.
    """

    def __init__(self, network: SynthesisNetwork, noise: NoiseMode = "constant") -> None:
        super().__init__()
        first = next(network.blocks())
        self.const = nn.Parameter(first.const.detach(), requires_grad=False)
        self.sides = network.config.sides
        for side, block in zip(self.sides, network.blocks(), strict=True):
            for number, layer in enumerate(block.layers(), start=2 - len(block.layers())):
                self.add_module(f"b{side}_conv{number}", FoldedLayer(layer, noise))
            self.add_module(f"b{side}_torgb", FoldedToRGB(block.torgb))
            if block is not first:
                self.add_module(f"b{side}_upsample", Filter(block.resample_filter, upsampled))

    def light(self) -> tuple[str, ...]:
        """Name the steps that are a few percent of the products, and lose much where they have few bits."""
        kinds = (Filter, nn.Linear)
        named = self.named_modules()
        return tuple(name for name, module in named if isinstance(module, kinds) or name.endswith("torgb.conv"))

    def forward(self, ws: Tensor, *noise: Tensor) -> Tensor:
        """Make images.

        Args:
            ws: [B, N, S], a style for each layer.
            noise: of every 3x3 layer, [B, 1, R, R], where it is an input.

        Returns:
            [B, C, R, R].
        """
        image: Tensor | None = None
        x, place = self.const.expand(ws.shape[0], -1, -1, -1), 0
        for side in self.sides:
            for number in (0, 1) if place else (1,):
                layer = self.get_submodule(f"b{side}_conv{number}")
                x = layer(x, ws[:, place], noise[place] if noise else None)
                place += 1
            colors = self.get_submodule(f"b{side}_torgb")(x, ws[:, place])
            image = colors if image is None else self.get_submodule(f"b{side}_upsample")(image) + colors
        assert image is not None
        return image
