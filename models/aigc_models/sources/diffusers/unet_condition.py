"""config.json of a UNet2DConditionModel: every field is read, or refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aigc_models.families.unet_config import UNetConfig
from aigc_models.sources.diffusers.given import even, read_given, require, require_values, square_side

__all__ = ["UNET_CONDITION_CLASS", "read_unet_condition"]

UNET_CONDITION_CLASS = "UNet2DConditionModel"

_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 4,
    "out_channels": 4,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "only_cross_attention": False,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "dropout": 0.0,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1,
    "attention_head_dim": 8,
    "use_linear_projection": False,
    "class_embed_type": None,
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
    "time_embedding_dim": None,
    "time_cond_proj_dim": None,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "projection_class_embeddings_input_dim": None,
}
"""diffusers' own; a folder of an older version lacks what was added later."""

_FIXED: dict[str, tuple[object, ...]] = {
    "act_fn": ("silu", "swish"),
    "upcast_attention": (False, True, None),  # engines choose the precision of each operation themselves
    "num_attention_heads": (None,),
    "dual_cross_attention": (False, None),
    "reverse_transformer_layers_per_block": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "class_embeddings_concat": (False, None),
    "resnet_skip_time_act": (False, None),
    "resnet_out_scale_factor": (1, 1.0),
    "time_embedding_type": ("positional",),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
    "mid_block_only_cross_attention": (None, False, True),  # the middle block of this type does not look at it
    "cross_attention_norm": (None,),
}
"""Fields that must say what is done anyway; the first value is diffusers' own."""

_UNUSED = ("addition_embed_type_num_heads",)
_ADDED = ("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim")
_MAY_BE_NULL = (
    "mid_block_type",
    "class_embed_type",
    "num_class_embeds",
    "time_embedding_dim",
    "time_cond_proj_dim",
    *_ADDED,
)


def read_unet_condition(values: Mapping[str, Any], *, where: str = "config.json") -> UNetConfig:
    """Read the configuration of a UNet2DConditionModel.

    Its `attention_head_dim` is the number of heads, whatever it is called: so diffusers reads it.

    Args:
        values: the parsed JSON.
        where: the file's name, for messages.

    Raises:
        CheckpointError: a field that is not known, or one that asks for what is not done here.
        ConfigError: values that make no model.
    """
    defaults = {**_DEFAULTS, **{name: allowed[0] for name, allowed in _FIXED.items()}}
    given = read_given(values, defaults, where=where, unused=_UNUSED)
    require(given, _FIXED, where=where)
    given["sample_size"] = square_side(given["sample_size"], where)
    for name in ("layers_per_block", "cross_attention_dim"):
        given[name] = even(name, given[name], where)
    require_values(given, where=where, may_be_null=_MAY_BE_NULL)
    given["num_attention_heads"] = given.pop("attention_head_dim")
    return UNetConfig.from_dict({**given, "attention_head_dim": None})
