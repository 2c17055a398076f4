"""config.json of a UNet2DModel: every field is read, or refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aigc_models.families.unet_config import UNetConfig
from aigc_models.sources.diffusers.given import read_given, require_values, square_side
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["UNET_CLASS", "read_unet"]

UNET_CLASS = "UNet2DModel"

_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
"""diffusers' own; a folder of an older version lacks what was added later."""

_MAY_BE_NULL = (
    "time_embedding_dim",
    "mid_block_type",
    "attention_head_dim",
    "attn_norm_num_groups",
    "class_embed_type",
    "num_class_embeds",
    "num_train_timesteps",
)
_NULL_IS_CONV = ("downsample_type", "upsample_type")


def read_unet(values: Mapping[str, Any], *, where: str = "config.json") -> UNetConfig:
    """Read the configuration of a UNet2DModel.

    Args:
        values: the parsed JSON.
        where: the file's name, for messages.

    Raises:
        CheckpointError: another class, a field that is not known, or one that asks for what is not done here.
        ConfigError: values that make no model.
    """
    kind = values.get("_class_name")
    if kind != UNET_CLASS:
        raise CheckpointError(f"{where}: _class_name is {shown(kind)}", hint=f"supported: {UNET_CLASS}")
    given = read_given(values, _DEFAULTS, where=where)
    given["sample_size"] = square_side(given["sample_size"], where)
    for name in _NULL_IS_CONV:
        given[name] = given[name] or "conv"
    require_values(given, where=where, may_be_null=_MAY_BE_NULL)
    if given["class_embed_type"] == "identity":
        raise CheckpointError(
            f"{where}: class_embed_type is 'identity', which is not supported",
            hint="such a model takes an embedding in place of a class: bring it in by a function of your own",
        )
    if given["time_embedding_type"] != "learned":
        given["num_train_timesteps"] = None  # which is looked at nowhere else
    return UNetConfig.from_dict(given)
