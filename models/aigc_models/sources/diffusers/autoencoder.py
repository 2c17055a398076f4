"""config.json of an AutoencoderKL: every field is read, or refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aigc_models.families.vae_config import DOWN, UP, VaeConfig
from aigc_models.sources.diffusers.given import read_given, require, square_side
from aigc_runtime.errors import CheckpointError

__all__ = ["VAE_CLASS", "read_vae"]

VAE_CLASS = "AutoencoderKL"

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
    for name, value in given.items():
        if value is None:
            raise CheckpointError(f"{where}: {name} is null", hint="give it the value that the model was trained with")
    return VaeConfig.from_dict(given)
