"""SRVGGNetCompact, the small generator of Real-ESRGAN: a row of convolutions, and one pixel-shuffle at the end.

Shapes: B batch, C image channels, F features, H height, W width, S scale.

References:
    Wang et al. 2021, "Real-ESRGAN" (arXiv:2107.10833), whose authors published it with the models for video and for
        general scenes.
    Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution" (arXiv:1609.05158): the pixel-shuffle, eq. 4.
    He et al. 2015, "Delving Deep into Rectifiers" (arXiv:1502.01852): PReLU, eq. 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.families.layers import config_from_dict, config_to_dict, require_one_of, require_positive

__all__ = ["SRVGGNet", "SRVGGNetConfig"]

SLOPE = 0.1
"""Of LeakyReLU, where that is the activation."""
MAX_UPSCALE = 16


@dataclass(frozen=True, kw_only=True)
class SRVGGNetConfig:
    """The configuration of an SRVGGNetCompact.

    Attributes:
        channels: C.
        num_feat: F.
        num_conv: convolutions between the first and the last.
        upscale: S.
        activation: behind every convolution but the last; `prelu` has a slope for each feature.
    """

    channels: int = 3
    num_feat: int = 64
    num_conv: int = 16
    upscale: int = 4
    activation: Literal["prelu", "relu", "leakyrelu"] = "prelu"

    def __post_init__(self) -> None:
        require_positive("SRVGGNetConfig", channels=self.channels, num_feat=self.num_feat, num_conv=self.num_conv)
        require_one_of("SRVGGNetConfig", "upscale", self.upscale, range(1, MAX_UPSCALE + 1))
        require_one_of("SRVGGNetConfig", "activation", self.activation, ("prelu", "relu", "leakyrelu"))

    @property
    def scale(self) -> int:
        """S: how many times as wide and high the result is."""
        return self.upscale

    @property
    def radius(self) -> int:
        """How many pixels away, to each side, a pixel of the picture can still change a pixel of the result.

        >>> SRVGGNetConfig(num_conv=16).radius
        18
        """
        return self.num_conv + 2

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return config_to_dict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SRVGGNetConfig:
        """Read plain JSON; raises ConfigError on an unknown or missing field."""
        return config_from_dict(cls, values)


class SRVGGNet(nn.Module):
    """Pictures -> pictures, S times as wide and high. Parameters are named as BasicSR's are.

    Args:
        config: its configuration.
    """

    def __init__(self, config: SRVGGNetConfig) -> None:
        super().__init__()
        self.config = config
        body: list[nn.Module] = []
        for i in range(config.num_conv + 1):
            n_in = config.channels if i == 0 else config.num_feat
            body += [nn.Conv2d(n_in, config.num_feat, 3, padding=1), _activation(config)]
        body.append(nn.Conv2d(config.num_feat, config.channels * config.upscale**2, 3, padding=1))
        self.body = nn.Sequential(*body)

    def forward(self, image: Tensor) -> Tensor:
        """Upscale pictures: what the convolutions give is added to the enlarged picture.

        Args:
            image: [B, C, H, W] in [0, 1].

        Returns:
            [B, C, S H, S W], about [0, 1].
        """
        residual = F.pixel_shuffle(self.body(image), self.config.upscale)
        return residual + F.interpolate(image, scale_factor=float(self.config.upscale), mode="nearest")


def _activation(config: SRVGGNetConfig) -> nn.Module:
    if config.activation == "prelu":
        return nn.PReLU(config.num_feat)
    return nn.ReLU() if config.activation == "relu" else nn.LeakyReLU(SLOPE)
