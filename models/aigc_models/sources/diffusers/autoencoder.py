"""config.json of an AutoencoderKL or an AutoencoderTiny: every field is read, or refused by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from aigc_models.families.tiny_vae_config import TinyVaeConfig
from aigc_models.families.vae_config import DOWN, UP, VaeConfig
from aigc_models.sources.diffusers.given import read_given, require, require_values, square_side
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["TINY_CLASS", "VAES", "VAE_CLASS", "AnyVaeConfig", "read_autoencoder", "read_tiny_vae", "read_vae"]

VAE_CLASS, TINY_CLASS = "AutoencoderKL", "AutoencoderTiny"
AnyVaeConfig: TypeAlias = VaeConfig | TinyVaeConfig

_DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": [DOWN],
    "up_block_types": [UP],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
"""diffusers' own; a folder of an older version lacks what was added later."""

_FIXED: dict[str, tuple[object, ...]] = {
    "shift_factor": (None, 0, 0.0),
    "latents_mean": (None,),
    "latents_std": (None,),
    "force_upcast": (True, False, None),  # engines choose the precision of each operation themselves
}
"""Fields that must say what is done anyway; the first value is diffusers' own."""


_TINY_DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "encoder_block_out_channels": [64, 64, 64, 64],
    "decoder_block_out_channels": [64, 64, 64, 64],
    "num_encoder_blocks": [1, 3, 3, 3],
    "num_decoder_blocks": [3, 3, 3, 1],
    "act_fn": "relu",
    "latent_channels": 4,
    "scaling_factor": 1.0,
}
_TINY_FIXED: dict[str, tuple[object, ...]] = {
    "upsample_fn": ("nearest",),
    "upsampling_scaling_factor": (2,),
    "shift_factor": (0.0, 0, None),
    "force_upcast": (False, True, None),
}
_TINY_UNUSED = ("latent_magnitude", "latent_shift", "block_out_channels")
"""What latents are stored as bytes with, and a copy of another field."""


def read_vae(values: Mapping[str, Any], *, where: str = "config.json") -> VaeConfig:
    """Read the configuration of an AutoencoderKL.

    Args:
        values: the parsed JSON.
        where: the file's name, for messages.

    Raises:
        CheckpointError: a field that is not known, or one that asks for what is not done here.
        ConfigError: values that make no model.
    """
    defaults = {**_DEFAULTS, **{name: allowed[0] for name, allowed in _FIXED.items()}}
    given = read_given(values, defaults, where=where)
    require(given, _FIXED, where=where)
    given["sample_size"] = square_side(given["sample_size"], where)
    require_values(given, where=where)
    return VaeConfig.from_dict(given)


def read_tiny_vae(values: Mapping[str, Any], *, where: str = "config.json") -> TinyVaeConfig:
    """Read the configuration of an AutoencoderTiny.

    Args:
        values: the parsed JSON.
        where: the file's name, for messages.

    Raises:
        CheckpointError: a field that is not known, or one that asks for what is not done here.
        ConfigError: values that make no model.
    """
    defaults = {**_TINY_DEFAULTS, **{name: allowed[0] for name, allowed in _TINY_FIXED.items()}}
    given = read_given(values, defaults, where=where, unused=_TINY_UNUSED)
    require(given, _TINY_FIXED, where=where)
    require_values(given, where=where)
    return TinyVaeConfig.from_dict(given)


VAES: Mapping[str, Callable[..., AnyVaeConfig]] = {VAE_CLASS: read_vae, TINY_CLASS: read_tiny_vae}
"""Classes of autoencoders, and how their configurations are read."""


def read_autoencoder(values: Mapping[str, Any], *, where: str = "config.json") -> AnyVaeConfig:
    """Read the configuration of an autoencoder; a file without a class is of an AutoencoderKL.

    Raises:
        CheckpointError: another class, or what `read_vae` and `read_tiny_vae` refuse.
        ConfigError: values that make no model.
    """
    kind = values.get("_class_name", VAE_CLASS)
    if not isinstance(kind, str) or kind not in VAES:
        raise CheckpointError(
            f"{where}: _class_name is {shown(kind)}, which is not supported", hint=f"supported: {', '.join(VAES)}"
        )
    return VAES[kind](values, where=where)
