from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

from aigc_models.families.unet import UNet, UNetConfig, digits_unet_config
from aigc_models.programs import unet_program
from aigc_models.sources.shipped import MODELS
from aigc_runtime.errors import ConfigError
from aigc_runtime.generation.schedules import ScheduleConfig

SMALL: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
CROSS: dict[str, Any] = {
    **SMALL,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "cross_attention_dim": 6,
}


@pytest.mark.parametrize(
    "config",
    [
        digits_unet_config(),
        UNetConfig(**SMALL),
        UNetConfig(**CROSS, num_attention_heads=(2, 4), transformer_layers_per_block=(1, 3)),
    ],
    ids=["digits", "small", "per level"],
)
def test_a_configuration_survives_json(config: UNetConfig) -> None:
    assert UNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="UNetConfig has no field 'layer_per_block'\ndid you mean 'layers_per_block'"):
        UNetConfig.from_dict({**SMALL, "layer_per_block": 2})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ConfigError, match="UNetConfig lacks sample_size"):
        UNetConfig.from_dict({k: v for k, v in SMALL.items() if k != "sample_size"})


@pytest.mark.parametrize(
    "field", ["sample_size", "in_channels", "out_channels", "layers_per_block", "attention_head_dim", "norm_num_groups"]
)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "4"])
def test_counts_are_positive_integers(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"UNetConfig\.{field} is {value!r}\nmust be an integer of at least 1"):
        UNetConfig(**{**SMALL, field: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_out_channels": ()}, r"block_out_channels is \(\)\nmust be a tuple with one number per level"),
        ({"block_out_channels": 8}, "block_out_channels is 8\nmust be a tuple"),
        ({"block_out_channels": (8, 0)}, "block_out_channels is 0\nmust be an integer of at least 1"),
        ({"block_out_channels": (8, 18)}, "block_out_channels holds 18\nmust be multiples of norm_num_groups = 4"),
        ({"block_out_channels": (9, 9), "norm_num_groups": 3}, "starts with 9\nmust be even and at least 4"),
        ({"block_out_channels": (2, 4), "norm_num_groups": 2}, "starts with 2\nmust be even and at least 4"),
        ({"down_block_types": ("DownBlock2D",)}, "down_block_types has 1 entries\nblock_out_channels has 2"),
        ({"up_block_types": ("UpBlock2D",) * 3}, "up_block_types has 3 entries\nblock_out_channels has 2"),
        ({"up_block_types": "UpBlock2D"}, "up_block_types is 'UpBlock2D'\nmust be a tuple"),
        (
            {"down_block_types": ("DownBlock2D", "AttnUpBlock2D")},
            "down_block_types is 'AttnUpBlock2D'\nvalid: DownBlock2D, ResnetDownsampleBlock2D, AttnDownBlock2D, Cross",
        ),
        (
            {"up_block_types": ("UNetMidBlock2D", "UpBlock2D")},
            "up_block_types is 'UNetMidBlock2D'\nvalid: UpBlock2D, ResnetUpsampleBlock2D, AttnUpBlock2D, CrossAttn",
        ),
        (
            {"mid_block_type": "MidBlock"},
            "mid_block_type is 'MidBlock'\nvalid: UNetMidBlock2D, UNetMidBlock2DCrossAttn, None",
        ),
        ({"downsample_padding": 2}, "downsample_padding is 2\nvalid: 0, 1"),
        ({"freq_shift": 4}, "freq_shift is 4\nvalid: 0, 1"),
        ({"flip_sin_to_cos": "yes"}, "flip_sin_to_cos is 'yes'\nvalid: False, True"),
        ({"use_linear_projection": None}, "use_linear_projection is None\nvalid: False, True"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0\nmust be a number above 0"),
        ({"norm_eps": float("nan")}, "norm_eps is nan\nmust be a number above 0"),
        ({"norm_eps": "1e-5"}, "norm_eps is '1e-5'\nmust be a number above 0"),
        ({"dropout": 1.0}, "dropout is 1.0\nmust be at least 0 and below 1"),
        ({"dropout": -0.1}, "dropout is -0.1\nmust be at least 0 and below 1"),
        ({"sample_size": 9}, "sample_size is 9\nmust be a multiple of 2"),
        ({"attention_head_dim": 5}, "attention_head_dim is 5\nmust be a divisor of the 16 channels"),
        ({"attention_head_dim": 32}, "attention_head_dim is 32\nmust be a divisor of the 16 channels"),
        ({"cross_attention_dim": 6}, "cross_attention_dim is 6\nset it exactly where a block attends to a context"),
        ({"null_class": 0}, "null_class is 0\nmust be a label below num_class_embeds = None"),
        ({"num_class_embeds": 3, "null_class": 3}, "null_class is 3\nmust be a label below num_class_embeds = 3"),
        ({"num_class_embeds": 3, "null_class": -1}, "null_class is -1\nmust be a label"),
        ({"num_class_embeds": 3, "null_class": True}, "null_class is True\nmust be a label"),
        ({"num_class_embeds": 0}, "num_class_embeds is 0\nmust be an integer of at least 1"),
    ],
)
def test_what_a_unet_does_not_allow(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"UNetConfig\\..*{message}"):
        UNetConfig(**{**SMALL, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cross_attention_dim": None}, "cross_attention_dim is None\nset it exactly where"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0\nmust be an integer of at least 1"),
        ({"num_attention_heads": None}, "num_attention_heads is None\nmust be an integer of at least 1"),
        ({"num_attention_heads": (2, 0)}, "num_attention_heads is 0\nmust be an integer of at least 1"),
        ({"num_attention_heads": (2,)}, "num_attention_heads has 1 entries\ngive one number, or one for each of 2"),
        ({"num_attention_heads": 3}, "num_attention_heads is 3\nmust be a divisor of the 8 channels"),
        ({"num_attention_heads": (2, 3)}, "num_attention_heads is 3\nmust be a divisor of the 16 channels"),
        ({"transformer_layers_per_block": (1, 1, 1)}, "transformer_layers_per_block has 3 entries"),
        ({"transformer_layers_per_block": 0}, "transformer_layers_per_block is 0\nmust be an integer of at least 1"),
    ],
)
def test_what_cross_attention_does_not_allow(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"UNetConfig\\.{message}"):
        UNetConfig(**{**CROSS, **changes})


def test_head_sizes_only_count_where_blocks_attend() -> None:
    without_attention = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    # 12 channels at the upper level are no multiple of 8; only the middle block, with 16, attends.
    model = UNet(UNetConfig(**{**SMALL, **without_attention, "block_out_channels": (12, 16), "attention_head_dim": 8}))
    attending = {name.split(".")[0] for name, _ in model.named_modules() if name.endswith("to_q")}
    assert attending == {"mid_block"}


def test_settings_per_level() -> None:
    config = UNetConfig(**CROSS, num_attention_heads=(2, 4), transformer_layers_per_block=(1, 3))
    assert [config.heads(0), config.heads(1)] == [2, 4]
    assert [config.transformer_layers(0), config.transformer_layers(1)] == [1, 3]
    one = UNetConfig(**CROSS, num_attention_heads=2)
    assert [one.heads(0), one.heads(1)] == [2, 2]


@pytest.mark.parametrize(("levels", "multiple"), [(1, 1), (2, 2), (4, 8)])
def test_sides_are_multiples_of_what_the_levels_halve(levels: int, multiple: int) -> None:
    config = UNetConfig(
        sample_size=16,
        block_out_channels=(8,) * levels,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
    )
    assert config.multiple_of == multiple


def test_the_digits_configuration() -> None:
    config = digits_unet_config()
    assert (config.sample_size, config.in_channels, config.out_channels) == (16, 1, 1)
    assert (config.num_class_embeds, config.null_class) == (11, 10)
    assert config.multiple_of == 4  # three levels: 16, 8, 4
    assert config.down_block_types == ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    assert config.up_block_types == ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    assert sum(p.numel() for p in UNet(config).parameters()) <= 1_200_000


@pytest.mark.parametrize("optional", sorted(f.name for f in dataclasses.fields(UNetConfig) if f.name != "sample_size"))
def test_null_means_the_default(optional: str) -> None:
    default = getattr(UNetConfig(sample_size=16), optional)
    found = getattr(UNetConfig.from_dict({"sample_size": 16, optional: None}), optional)
    # Where a field may be None, that is a value of its own.
    assert found == default or found is None
    assert found == default or "None" in str(UNetConfig.__dataclass_fields__[optional].type)
    with pytest.raises(ConfigError, match="sample_size is null"):
        UNetConfig.from_dict({"sample_size": None})


def test_heads_that_a_condition_unet_calls_otherwise_are_not_taken_for_the_default() -> None:
    plain = UNetConfig(**CROSS, attention_head_dim=4).to_dict()
    assert UNetConfig.from_dict({**plain, "num_attention_heads": None, "attention_head_dim": 8}).heads(0) == 8
    with pytest.raises(ConfigError, match=r"num_attention_heads is null, attention_head_dim is 4\nset num_attention"):
        UNetConfig.from_dict({**plain, "num_attention_heads": None})


@pytest.mark.parametrize(("given", "wanted"), [(9, 4), (3, 4), (4, 2), (1, 3)])
def test_channels_that_no_sampler_can_use_are_refused_when_the_file_is_read(given: int, wanted: int) -> None:
    config = UNetConfig(**SMALL, in_channels=given, out_channels=wanted).to_dict()
    with pytest.raises(ConfigError, match=f"out_channels is {wanted}, in_channels is {given}\nmust be as many"):
        MODELS["unet"].build({"model": config})
    assert UNetConfig.from_dict(config).out_channels == wanted
    UNetConfig.from_dict({**config, "out_channels": 2 * given}).require_supported_channels()


@pytest.mark.parametrize("channels", [(4, 4, 8), (4, 8, 4), (4, 8, 8), (8, 4, 8), (4,), (8,), (8, 4)])
def test_no_group_of_a_norm_is_a_single_number(channels: tuple[int, ...]) -> None:
    """PyTorch refuses such a norm, which would make zeros of everything: it says itself at which size that is so."""
    levels = len(channels)
    shared: dict[str, Any] = {
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": channels,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": None,
        "down_block_types": ("DownBlock2D",) * levels,
        "up_block_types": ("UpBlock2D",) * levels,
    }
    config = UNetConfig(sample_size=8, **shared)
    smallest = UNetConfig(sample_size=config.min_size, **shared)
    model, t = UNet(smallest).eval(), torch.zeros(1)
    with torch.no_grad():
        assert model(torch.randn(1, 1, config.min_size, config.min_size), t).isfinite().all()
        if config.min_size > config.multiple_of:
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                model(torch.randn(1, 1, config.multiple_of, config.multiple_of), t)
            with pytest.raises(ConfigError, match="norm_num_groups is 4: with sample_size"):
                UNetConfig(sample_size=config.multiple_of, **shared)
    dims = unet_program(UNet(config), ScheduleConfig(), dynamic_size=True).part.interface.dims
    assert {dim.min for dim in dims if dim.name in ("height", "width")} == {config.min_size}
