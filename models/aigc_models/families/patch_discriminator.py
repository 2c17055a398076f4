"""A discriminator that judges a picture patch by patch, for models whose pictures have a target.

Shapes: B batch, C channels, H height, W width.

References:
    Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks" (arXiv:1611.07004), section
        3.2.2 (PatchGAN).
    Miyato et al. 2018, "Spectral Normalization" (arXiv:1802.05957), in place of the batch normalization.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from aigc_models.families.layers import require_positive

__all__ = ["PatchDiscriminator"]

SLOPE = 0.2
"""Of every LeakyReLU (appendix 6.1.2)."""


class PatchDiscriminator(nn.Module):
    """Pictures -> a logit for each patch, large where it looks real.

    Args:
        channels: C.
        base_channels: of the first convolution; the next has twice as many.
    """

    def __init__(self, channels: int, base_channels: int = 32) -> None:
        super().__init__()
        require_positive("PatchDiscriminator", channels=channels, base_channels=base_channels)
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise((channels, base_channels, 2 * base_channels)):
            layers += [spectral_norm(nn.Conv2d(n_in, n_out, 4, stride=2, padding=1)), nn.LeakyReLU(SLOPE)]
        layers += [spectral_norm(nn.Conv2d(2 * base_channels, 2 * base_channels, 3, padding=1)), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(2 * base_channels, 1, 3, padding=1)))

    def forward(self, image: Tensor) -> Tensor:
        """Judge patches of about 26 pixels, whose centers are four apart.

        Args:
            image: [B, C, H, W], both sides at least 4.

        Returns:
            [B, 1, H // 4, W // 4].
        """
        logits: Tensor = self.layers(image)
        return logits
