"""The configuration of the tiny autoencoder; field names are the diffusers library's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from aigc_models.families.layers import config_from_dict, config_to_dict, require_one_of, require_positive
from aigc_models.families.unet_config import ACTIVATION_NAMES
from aigc_runtime.errors import ConfigError

__all__ = ["TinyVaeConfig"]


@dataclass(frozen=True, kw_only=True)
class TinyVaeConfig:
    """A tiny autoencoder's configuration.

    Attributes:
        in_channels: channels of the picture that is encoded.
        out_channels: channels of the picture that is decoded.
        latent_channels: channels of the latent.
        encoder_block_out_channels: channels per level of the encoder, the same at all of them.
        decoder_block_out_channels: likewise of the decoder.
        num_encoder_blocks: residual blocks per level of the encoder.
        num_decoder_blocks: likewise of the decoder, from the lowest level; as many levels.
        act_fn: inside the residual blocks, a key of `unet_blocks.ACTIVATIONS`.
        scaling_factor: what a latent is multiplied by before a diffusion model sees it.

    Raises:
        ConfigError: a value that the model does not allow; names the field, the value and what is allowed.
    """

    sample_size: ClassVar[int] = 512
    """Side of a picture where nobody says one: files do not say what it was taught on."""
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    act_fn: str = "relu"
    scaling_factor: float = 1.0

    def __post_init__(self) -> None:
        require_positive(
            "TinyVaeConfig",
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            latent_channels=self.latent_channels,
        )
        require_one_of("TinyVaeConfig", "act_fn", self.act_fn, ACTIVATION_NAMES)
        scale = self.scaling_factor
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
            raise ConfigError(f"TinyVaeConfig.scaling_factor is {scale!r}", hint="must be a number above 0")
        levels = len(self.num_encoder_blocks)
        for field in (
            "num_encoder_blocks",
            "num_decoder_blocks",
            "encoder_block_out_channels",
            "decoder_block_out_channels",
        ):
            values = getattr(self, field)
            if not isinstance(values, tuple) or not values or len(values) != levels:
                raise ConfigError(
                    f"TinyVaeConfig.{field} is {values!r}",
                    hint=f"must be a tuple of {levels}, as many as num_encoder_blocks has levels, and at least 1",
                )
            for value in values:
                require_positive("TinyVaeConfig", **{field: value})
        for field in ("encoder_block_out_channels", "decoder_block_out_channels"):
            if len(set(getattr(self, field))) > 1:  # the convolutions between levels keep the number of channels
                raise ConfigError(
                    f"TinyVaeConfig.{field} is {getattr(self, field)}", hint="must be the same at all levels"
                )

    @property
    def downscale(self) -> int:
        """How many pixels a side of a latent's pixel covers; both sides of a picture are multiples of it."""
        return 1 << (len(self.num_encoder_blocks) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return config_to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TinyVaeConfig:
        """Read plain JSON; raises ConfigError on an unknown field."""
        return config_from_dict(cls, values)
