"""The configuration of the variational autoencoder; field names are the diffusers library's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aigc_models.families.layers import config_from_dict, config_to_dict, require_one_of, require_positive
from aigc_models.families.unet_config import ACTIVATION_NAMES
from aigc_runtime.errors import ConfigError

__all__ = ["VaeConfig"]

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """An autoencoder's configuration.

    Attributes:
        in_channels: channels of the picture that is encoded.
        out_channels: channels of the picture that is decoded.
        latent_channels: channels of the latent.
        down_block_types: `DownEncoderBlock2D` for each level.
        up_block_types: `UpDecoderBlock2D` for each level.
        block_out_channels: channels per resolution level.
        layers_per_block: residual blocks per level of the encoder (one more in the decoder).
        act_fn: of the residual blocks, a key of `unet_blocks.ACTIVATIONS`.
        norm_num_groups: groups of every GroupNorm.
        sample_size: side of the pictures that it was trained on.
        scaling_factor: what a latent is multiplied by before a diffusion model sees it.
        use_quant_conv: a 1x1 convolution behind the encoder.
        use_post_quant_conv: a 1x1 convolution in front of the decoder.
        mid_block_add_attention: self-attention at the lowest resolution.

    Raises:
        ConfigError: a value that the model does not allow; names the field, the value and what is allowed.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    down_block_types: tuple[str, ...] = (DOWN,)
    up_block_types: tuple[str, ...] = (UP,)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    norm_num_groups: int = 32
    sample_size: int = 32
    scaling_factor: float = 0.18215
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        require_positive(
            "VaeConfig",
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            latent_channels=self.latent_channels,
            layers_per_block=self.layers_per_block,
            norm_num_groups=self.norm_num_groups,
            sample_size=self.sample_size,
        )
        require_one_of("VaeConfig", "act_fn", self.act_fn, ACTIVATION_NAMES)
        for field in ("use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"):
            require_one_of("VaeConfig", field, getattr(self, field), (False, True))
        scale = self.scaling_factor
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
            raise ConfigError(f"VaeConfig.scaling_factor is {scale!r}", hint="must be a number above 0")
        if not isinstance(self.block_out_channels, tuple) or not self.block_out_channels:
            raise ConfigError(
                f"VaeConfig.block_out_channels is {self.block_out_channels!r}",
                hint="must be a tuple with one number per level",
            )
        for channels in self.block_out_channels:
            require_positive("VaeConfig", block_out_channels=channels)
            if channels % self.norm_num_groups:
                raise ConfigError(
                    f"VaeConfig.block_out_channels holds {channels}",
                    hint=f"must be multiples of norm_num_groups = {self.norm_num_groups}",
                )
        for field, kind in (("down_block_types", DOWN), ("up_block_types", UP)):
            self._check_blocks(field, kind)

    def _check_blocks(self, field: str, kind: str) -> None:
        types = getattr(self, field)
        if not isinstance(types, tuple) or len(types) != len(self.block_out_channels):
            raise ConfigError(
                f"VaeConfig.{field} is {types!r}",
                hint=f"must be a tuple of {len(self.block_out_channels)}, as many as block_out_channels has levels",
            )
        for one in types:
            require_one_of("VaeConfig", field, one, (kind,))

    @property
    def downscale(self) -> int:
        """How many pixels a side of a latent's pixel covers; both sides of a picture are multiples of it."""
        return 1 << (len(self.block_out_channels) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return config_to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VaeConfig:
        """Read plain JSON; raises ConfigError on an unknown field."""
        return config_from_dict(cls, values)
