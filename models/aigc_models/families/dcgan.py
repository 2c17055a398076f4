"""The generator of DCGAN: transposed convolutions from one pixel to an image, under the names of PyTorch's example.

Shapes: B batch, Z latent size, C image channels, R side.

Reference:
    Radford et al. 2016, "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks"
    (arXiv:1511.06434): section 3. The layers stand in one row, `main`, as in PyTorch's example and tutorial.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from aigc_models.families.layers import config_from_dict, config_to_dict, require_positive
from aigc_runtime.errors import ConfigError

__all__ = ["DCGANConfig", "DCGANGenerator"]

KERNEL = 4
MAX_LAYERS = 10
"""The last of them makes images of 2,048 pixels."""


@dataclass(frozen=True, kw_only=True)
class DCGANConfig:
    """The configuration of a DCGAN generator.

    Attributes:
        channels: of the latents, of every hidden layer, and of the image. The first layer gives 4x4 pixels, and every
            other doubles the sides.
    """

    channels: tuple[int, ...] = (100, 512, 256, 128, 64, 3)

    def __post_init__(self) -> None:
        require_positive("DCGANConfig", **{f"channels[{n}]": count for n, count in enumerate(self.channels)})
        if not 3 <= len(self.channels) <= MAX_LAYERS + 1:
            raise ConfigError(
                f"DCGANConfig.channels has {len(self.channels)} numbers",
                hint=f"latents, hidden layers, image: from 3 to {MAX_LAYERS + 1}",
            )

    @property
    def image_size(self) -> int:
        """R.

        >>> DCGANConfig().image_size
        64
        """
        return int(KERNEL << (len(self.channels) - 2))

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return config_to_dict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DCGANConfig:
        """Read plain JSON; raises ConfigError on an unknown or missing field."""
        return config_from_dict(cls, values)


class DCGANGenerator(nn.Module):
    """Latents -> image in [-1, 1].

    Args:
        config: its configuration.
    """

    def __init__(self, config: DCGANConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        for n, (n_in, n_out) in enumerate(pairwise(config.channels)):
            stride, padding = (1, 0) if n == 0 else (2, 1)
            layers.append(nn.ConvTranspose2d(n_in, n_out, KERNEL, stride, padding, bias=False))
            if n < len(config.channels) - 2:
                layers += [nn.BatchNorm2d(n_out), nn.ReLU()]
        self.main = nn.Sequential(*layers, nn.Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        """[B, Z] -> [B, C, R, R]."""
        image: Tensor = self.main(latents[:, :, None, None])
        return image
