"""The discriminator of StyleGAN2: residual, with the spread of a minibatch as one of its features.

Shapes: B batch, C image channels, I input channels, O output channels, R side, K classes, F features, G group.

References:
    Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (arXiv:1912.04958): figure 7, lower row
    (residual), section 4.1.
    Karras et al. 2018, "Progressive Growing of GANs" (arXiv:1710.10196): section 3 (minibatch standard deviation).
    Miyato & Koyama 2018, "cGANs with Projection Discriminator": eq. 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.families.layers import require_positive
from aigc_models.families.stylegan2.config import BASE_SIDE
from aigc_models.families.stylegan2.layers import EPSILON, EqualizedLinear, blur_filter, leaky
from aigc_runtime.errors import ConfigError

__all__ = ["ResidualDiscriminator", "ResidualDiscriminatorConfig", "minibatch_deviation"]


@dataclass(frozen=True, kw_only=True)
class ResidualDiscriminatorConfig:
    """The configuration of a discriminator.

    Attributes:
        channels: of the features of 4x4, of those of 8x8 and so on, as the generator lists them.
        image_channels: C.
        num_classes: K; None without classes.
        group_size: images whose spread is taken together, at most.
        filter_size: taps of the blur along each side, an even number.
    """

    channels: tuple[int, ...] = (64, 64, 64, 32)
    image_channels: int = 1
    num_classes: int | None = 10
    group_size: int = 4
    filter_size: int = 4

    def __post_init__(self) -> None:
        owner = type(self).__name__
        require_positive(
            owner,
            image_channels=self.image_channels,
            num_classes=self.num_classes,
            group_size=self.group_size,
            filter_size=self.filter_size,
            **{f"channels[{n}]": count for n, count in enumerate(self.channels)},
        )
        if len(self.channels) < 2:
            raise ConfigError(
                f"{owner}.channels has {len(self.channels)} numbers", hint="one for 4x4, one for 8x8 and so on"
            )
        if self.filter_size % 2:
            raise ConfigError(f"{owner}.filter_size is {self.filter_size}", hint="must be an even number")


class EqualizedConv(nn.Module):
    """A convolution that keeps the sides, of weights drawn from N(0, 1) and scaled while they are used.

    Args:
        inputs: I.
        outputs: O.
        kernel: its side, odd.
        bias: whether it adds one.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__()
        self.gain = 1 / math.sqrt(inputs * kernel**2)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor, *, stride: int = 1, padding: int | None = None) -> Tensor:
        """[B, I, H, W] -> [B, O, H, W], or fewer places by `stride` and `padding`."""
        padding = self.weight.shape[-1] // 2 if padding is None else padding
        return F.conv2d(x, self.weight * self.gain, self.bias, stride=stride, padding=padding)


class ResidualBlock(nn.Module):
    """[B, I, R, R] -> [B, O, R / 2, R / 2]: two convolutions beside a 1x1 convolution, each side blurred and halved.

    Args:
        inputs: I.
        outputs: O.
        filter_size: taps of the blur.
    """

    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int, filter_size: int) -> None:
        super().__init__()
        self.conv0 = EqualizedConv(inputs, inputs, 3)
        self.conv1 = EqualizedConv(inputs, outputs, 3)
        self.skip = EqualizedConv(inputs, outputs, 1, bias=False)
        self.register_buffer("resample_filter", blur_filter(filter_size))

    def forward(self, x: Tensor) -> Tensor:
        """Run the block; the sum of two signals over sqrt(2) keeps the variance."""
        beside: Tensor = self.skip(self._blurred(x, stride=2, padding=self.resample_filter.shape[0] // 2 - 1))
        x = leaky(self.conv0(x))
        x = self._blurred(x, stride=1, padding=self.resample_filter.shape[0] // 2)
        x = leaky(self.conv1(x, stride=2, padding=0)) + beside
        return x / math.sqrt(2)

    def _blurred(self, x: Tensor, *, stride: int, padding: int) -> Tensor:
        size, channels = self.resample_filter.shape[0], x.shape[1]
        rows = self.resample_filter.expand(channels, 1, size, size)
        return F.conv2d(x, rows, stride=stride, padding=padding, groups=channels)


def minibatch_deviation(x: Tensor, group_size: int) -> Tensor:
    """Append to [B, C, R, R] one channel that says how much the images of a group differ: [B, C + 1, R, R].

    It is the standard deviation over the group, averaged over channels and places (Karras 2018, section 3). Image n is
    in the group of n + B / G, n + 2 B / G and so on; G is the largest divisor of the batch up to `group_size`.
    """
    batch = x.shape[0]
    group = next(size for size in range(min(group_size, batch), 0, -1) if batch % size == 0)
    variance = x.reshape(group, batch // group, *x.shape[1:]).var(dim=0, correction=0)
    deviation = (variance + EPSILON).sqrt().mean(dim=(1, 2, 3))
    return torch.cat([x, deviation.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])], dim=1)


class ResidualDiscriminator(nn.Module):
    """Image and class -> logit, large where the image looks real.

    Args:
        config: its configuration.
    """

    def __init__(self, config: ResidualDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        downwards = config.channels[::-1]
        last = downwards[-1]
        self.from_image = EqualizedConv(config.image_channels, downwards[0], 1)
        self.blocks = nn.Sequential(*(ResidualBlock(i, o, config.filter_size) for i, o in pairwise(downwards)))
        self.conv = EqualizedConv(last + 1, last, 3)
        self.hidden = EqualizedLinear(last * BASE_SIDE**2, last)
        self.output = EqualizedLinear(last, 1)
        self.embed = nn.Embedding(config.num_classes, last) if config.num_classes is not None else None

    def forward(self, image: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Logits psi(phi(x)) + y^T V phi(x) / sqrt(F) (Miyato & Koyama 2018, eq. 3; without classes the first alone).

        Args:
            image: [B, C, R, R] in [-1, 1].
            class_labels: [B] int64 in [0, K), for a discriminator with classes.

        Returns:
            [B].

        Raises:
            ConfigError: classes for a discriminator without them, or none for one that has them.
        """
        if (class_labels is None) != (self.embed is None):
            raise ConfigError(
                f"class_labels is {'not given' if class_labels is None else 'given'}, "
                f"num_classes is {self.config.num_classes}",
                hint="give class labels to a discriminator with classes, and to no other",
            )
        x = self.blocks(leaky(self.from_image(image)))
        x = leaky(self.conv(minibatch_deviation(x, self.config.group_size)))
        phi_BF = leaky(self.hidden(x.flatten(1)))
        logits: Tensor = self.output(phi_BF).squeeze(1)
        if self.embed is None or class_labels is None:
            return logits
        projection: Tensor = (self.embed(class_labels) * phi_BF).sum(dim=1)
        return logits + projection / math.sqrt(phi_BF.shape[1])
