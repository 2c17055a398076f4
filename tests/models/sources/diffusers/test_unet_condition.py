"""config.json of a UNet2DConditionModel: every field that diffusers knows is read, or refused by its name."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from aigc_models.families.unet import UNet
from aigc_models.sources.diffusers import unet_condition
from aigc_models.sources.diffusers.unet_condition import read_unet_condition
from aigc_runtime.errors import AigcError

from .small_sd import SD15_UNET, SD21_UNET, TURBO_UNET, diffusers

# The parameters that diffusers counts of the published configurations, which the papers' repositories state as 860 M
# and 866 M.
SD15 = {**SD15_UNET, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "norm_num_groups": 32}
SD21 = {
    **SD21_UNET,
    "attention_head_dim": (5, 10, 20, 20),
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 1024,
    "norm_num_groups": 32,
}
PUBLISHED = {"SD 1.5": ({**SD15, "sample_size": 64}, 859_520_964), "SD 2.1": ({**SD21, "sample_size": 96}, 865_910_724)}


def as_json(fields: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps({"_class_name": "UNet2DConditionModel", **fields}))
    return values


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_number_of_parameters(name: str) -> None:
    fields, expected = PUBLISHED[name]
    with torch.device("meta"):
        model = UNet(read_unet_condition(as_json(fields)))
        theirs = diffusers.UNet2DConditionModel(**fields)
    assert sum(p.numel() for p in model.parameters()) == expected == theirs.num_parameters()
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}


def test_every_field_of_theirs_is_known() -> None:
    with torch.device("meta"):
        config = json.loads(diffusers.UNet2DConditionModel(sample_size=64).to_json_string())
    theirs = {field: value for field, value in config.items() if not field.startswith("_")}
    defaults = {**unet_condition._DEFAULTS, **{k: v[0] for k, v in unet_condition._FIXED.items()}}
    assert theirs.keys() == {*defaults, *unet_condition._UNUSED}
    for field, default in defaults.items():
        assert field == "sample_size" or theirs[field] == default, field
    assert read_unet_condition(as_json({"sample_size": 64})) == read_unet_condition(config)


def test_heads_are_what_diffusers_takes_for_them() -> None:
    assert read_unet_condition(as_json(SD21_UNET)).num_attention_heads == (2, 4, 8, 8)
    assert read_unet_condition(as_json(SD15_UNET)).num_attention_heads == 8
    assert read_unet_condition(as_json(TURBO_UNET)) == read_unet_condition(as_json({**SD21_UNET, "sample_size": 16}))


def test_one_number_for_all_levels_may_be_given_for_each() -> None:
    listed = {**SD15_UNET, "layers_per_block": (2,) * 4, "cross_attention_dim": (24,) * 4, "sample_size": (16, 16)}
    assert read_unet_condition(as_json(listed)) == read_unet_condition(as_json(SD15_UNET))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "gelu"}, "act_fn is 'gelu', which is not supported\nsupported: 'silu', 'swish'"),
        ({"num_attention_heads": 4}, "num_attention_heads is 4"),
        ({"dual_cross_attention": True}, "dual_cross_attention is True"),
        ({"addition_embed_type": "text"}, "addition_embed_type is 'text'"),
        ({"addition_embed_type": "text_time"}, "addition_time_embed_dim is None"),
        ({"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type is 'text_proj'"),
        ({"class_embed_type": "projection"}, "class_embed_type is 'projection'"),
        ({"class_embeddings_concat": True}, "class_embeddings_concat is True"),
        ({"conv_in_kernel": 1}, "conv_in_kernel is 1"),
        ({"conv_out_kernel": 1}, "conv_out_kernel is 1"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'"),
        ({"timestep_post_act": "silu"}, "timestep_post_act is 'silu'"),
        ({"attention_type": "gated"}, "attention_type is 'gated'"),
        ({"resnet_skip_time_act": True}, "resnet_skip_time_act is True"),
        ({"cross_attention_norm": "group_norm"}, "cross_attention_norm is 'group_norm'"),
        ({"layers_per_block": [2, 2, 1, 2]}, "layers_per_block is .*\nsupported: one number for all levels"),
        ({"sample_size": None}, "sample_size is null"),
        ({"sample_size": [16, 24]}, "sample_size is .*\nsupported: squares"),
        ({"norm_num_groups": None}, "norm_num_groups is null"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "mid_block_type is 'UNetMidBlock2DSimpleCrossAttn'"),
        ({"only_cross_attention": [True]}, "only_cross_attention has 1 entries"),
        ({"motion_module": True}, "the field 'motion_module' is True, and what it means is not known here"),
        ({"time_cond_proj_dim": 0}, "time_cond_proj_dim is 0"),
    ],
)
def test_what_is_not_done_is_refused_by_its_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AigcError, match=message):
        read_unet_condition(as_json({**SD15_UNET, **change}))
