"""RRDBNet, the generator of ESRGAN and Real-ESRGAN: residual-in-residual dense blocks, then nearest upsampling.

Shapes: B batch, C image channels, F features, G growth, H height, W width, U unshuffle factor, S scale.

References:
    Wang et al. 2018, "ESRGAN" (arXiv:1809.00219): figure 4 (the block), section 3.1 (residual scaling).
    Wang et al. 2021, "Real-ESRGAN" (arXiv:2107.10833): section 3.2 (pixel-unshuffle for scales of 1 and 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.families.layers import config_from_dict, config_to_dict, require_one_of, require_positive

__all__ = ["RRDBNet", "RRDBNetConfig"]

BETA = 0.2
"""Residual scaling (ESRGAN, section 3.1)."""
SLOPE = 0.2
"""Of every LeakyReLU."""
CONVS = 5
"""Convolutions of a dense block."""
DENSE_BLOCKS = 3
"""Dense blocks of a residual-in-residual block."""
MAX_UPSAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class RRDBNetConfig:
    """The configuration of an RRDBNet.

    Attributes:
        channels: C.
        num_feat: F.
        num_block: residual-in-residual blocks.
        num_grow_ch: G, what each convolution of a dense block adds.
        upsamples: doublings of the sides at the end.
        unshuffle: U: so many times smaller sides, and U^2 as many channels, go into the first convolution.
    """

    channels: int = 3
    num_feat: int = 64
    num_block: int = 23
    num_grow_ch: int = 32
    upsamples: int = 2
    unshuffle: int = 1

    def __post_init__(self) -> None:
        require_positive(
            "RRDBNetConfig",
            channels=self.channels,
            num_feat=self.num_feat,
            num_block=self.num_block,
            num_grow_ch=self.num_grow_ch,
        )
        require_one_of("RRDBNetConfig", "upsamples", self.upsamples, range(MAX_UPSAMPLES + 1))
        # The sides must not shrink: at most as many halvings as doublings.
        require_one_of("RRDBNetConfig", "unshuffle", self.unshuffle, [2**n for n in range(self.upsamples + 1)])

    @property
    def scale(self) -> int:
        """S: how many times as wide and high the result is."""
        return int(2**self.upsamples) // self.unshuffle

    @property
    def radius(self) -> int:
        """How many pixels away, to each side, a pixel of the picture can still change a pixel of the result.

        >>> RRDBNetConfig(num_block=6).radius
        94
        """
        # Each convolution reaches one pixel of its own grid: the first, the blocks', the trunk's last, and what follows
        # the doublings, of which each pixel is half as wide as before.
        at_first = 2 + self.num_block * DENSE_BLOCKS * CONVS
        after = sum(0.5**n for n in range(1, self.upsamples + 1)) + 2 * 0.5**self.upsamples
        return self.unshuffle * (at_first + math.ceil(after))

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return config_to_dict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RRDBNetConfig:
        """Read plain JSON; raises ConfigError on an unknown or missing field."""
        return config_from_dict(cls, values)


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees what all before it gave (figure 4, right).

    Args:
        features: F.
        growth: G.
    """

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        for i in range(CONVS):
            n_out = features if i == CONVS - 1 else growth
            self.add_module(f"conv{i + 1}", nn.Conv2d(features + i * growth, n_out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, H, W] -> the same."""
        seen = [x]
        for i in range(1, CONVS):
            seen.append(_leaky(self.get_submodule(f"conv{i}")(torch.cat(seen, dim=1))))
        residual: Tensor = self.get_submodule(f"conv{CONVS}")(torch.cat(seen, dim=1))
        return x + BETA * residual


class RRDB(nn.Module):
    """Three dense blocks in one more residual (figure 4, left).

    Args:
        features: F.
        growth: G.
    """

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        for i in range(DENSE_BLOCKS):
            self.add_module(f"rdb{i + 1}", DenseBlock(features, growth))

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, H, W] -> the same."""
        y = x
        for i in range(DENSE_BLOCKS):
            y = self.get_submodule(f"rdb{i + 1}")(y)
        return x + BETA * y


class RRDBNet(nn.Module):
    """Pictures -> pictures, S times as wide and high. Parameters are named as BasicSR's are.

    Args:
        config: its configuration.
    """

    def __init__(self, config: RRDBNetConfig) -> None:
        super().__init__()
        self.config = config
        features = config.num_feat
        self.conv_first = nn.Conv2d(config.channels * config.unshuffle**2, features, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(features, config.num_grow_ch) for _ in range(config.num_block)))
        self.conv_body = nn.Conv2d(features, features, 3, padding=1)
        for i in range(config.upsamples):
            self.add_module(f"conv_up{i + 1}", nn.Conv2d(features, features, 3, padding=1))
        self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, config.channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Upscale pictures.

        Args:
            image: [B, C, H, W] in [0, 1], H and W multiples of U.

        Returns:
            [B, C, S H, S W], about [0, 1].
        """
        config = self.config
        x = self.conv_first(F.pixel_unshuffle(image, config.unshuffle) if config.unshuffle > 1 else image)
        x = x + self.conv_body(self.body(x))
        for i in range(config.upsamples):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = _leaky(self.get_submodule(f"conv_up{i + 1}")(x))
        result: Tensor = self.conv_last(_leaky(self.conv_hr(x)))
        return result


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)
