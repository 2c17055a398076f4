"""The StyleGAN2 generator: latents -> w -> image, as it is trained.

Shapes: B batch, Z latent size, S size of w, N styles of an image, C image channels, R side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aigc_models.families.stylegan2.config import StyleGAN2Config
from aigc_models.families.stylegan2.mapping import MappingNetwork
from aigc_models.families.stylegan2.synthesis import Noise, SynthesisNetwork

__all__ = ["StyleGAN2"]


class StyleGAN2(nn.Module):
    """A mapping network and a synthesis network.

    Args:
        config: its configuration.
    """

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config = config
        self.mapping = MappingNetwork(config)
        self.synthesis = SynthesisNetwork(config)

    def forward(self, latents: Tensor, class_labels: Tensor | None = None, *, noise: Noise = "constant") -> Tensor:
        """Generate images.

        Args:
            latents: [B, Z], standard normal.
            class_labels: [B] int64, for a generator with classes.
            noise: of the 3x3 layers.

        Returns:
            [B, C, R, R]; most of it is in [-1, 1].
        """
        w: Tensor = self.mapping(latents, class_labels)
        image: Tensor = self.synthesis(self.styles(w), noise)
        return image

    def styles(self, w: Tensor) -> Tensor:
        """One w for all layers: [B, S] -> [B, N, S]."""
        return w[:, None].expand(-1, self.config.num_ws, -1)

    def mixed(self, w: Tensor, other: Tensor, first: int) -> Tensor:
        """Mix styles (StyleGAN, section 3.1): layers from `first` on take `other`; [B, S] twice -> [B, N, S]."""
        late = torch.arange(self.config.num_ws, device=w.device) >= first
        return torch.where(late[None, :, None], other[:, None], w[:, None])
