"""Names of Stability's code: those of SDXL's published checkpoint, read off its own layout."""

from __future__ import annotations

import pytest
import torch

from aigc_models.families.unet import UNet
from aigc_models.sources.diffusers.sgm_names import sgm_names
from aigc_models.sources.diffusers.unet_condition import read_unet_condition

from .small_sd import SD15_UNET
from .small_xl import XL_UNET

PUBLISHED = {
    # SDXL: nine input blocks, three in the middle, nine output blocks.
    "input_blocks.0.0": "conv_in",
    "input_blocks.3.0.op": "down_blocks.0.downsamplers.0.conv",
    "input_blocks.4.0.skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
    "input_blocks.4.1.proj_in": "down_blocks.1.attentions.0.proj_in",
    "input_blocks.8.1.transformer_blocks.2.attn2.to_k": "down_blocks.2.attentions.1.transformer_blocks.2.attn2.to_k",
    "middle_block.0.in_layers.2": "mid_block.resnets.0.conv1",
    "middle_block.1.transformer_blocks.0.ff.net.0.proj": "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "middle_block.2.out_layers.3": "mid_block.resnets.1.conv2",
    "output_blocks.2.1.proj_out": "up_blocks.0.attentions.2.proj_out",
    "output_blocks.2.2.conv": "up_blocks.0.upsamplers.0.conv",
    "output_blocks.8.0.emb_layers.1": "up_blocks.2.resnets.2.time_emb_proj",
    "label_emb.0.0": "add_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "out.2": "conv_out",
}


def modules(fields: dict[str, object]) -> list[str]:
    with torch.device("meta"):
        model = UNet(read_unet_condition(fields))
    return [name.removesuffix(".weight") for name, weight in model.state_dict().items() if weight.dim() > 1]


@pytest.mark.parametrize("theirs", PUBLISHED)
def test_published_names(theirs: str) -> None:
    assert sgm_names(modules(XL_UNET))[theirs] == PUBLISHED[theirs]


@pytest.mark.parametrize("fields", [XL_UNET, SD15_UNET])
def test_every_module_has_one_name(fields: dict[str, object]) -> None:
    ours = modules(fields)
    names = sgm_names(ours)
    assert sorted(names.values()) == sorted(ours)
    assert len({name.replace(".", "_") for name in names}) == len(ours)


def test_doubling_without_attention_comes_behind_the_residual_block() -> None:
    assert sgm_names(modules(SD15_UNET))["output_blocks.2.1.conv"] == "up_blocks.0.upsamplers.0.conv"
