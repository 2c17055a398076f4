"""The configuration of the diffusion UNet; field names are the diffusers library's own where it has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aigc_models.families.layers import config_from_dict, config_to_dict, require_one_of, require_positive
from aigc_models.families.unet_additions import check_additions
from aigc_runtime.errors import ConfigError

__all__ = ["ATTENTION", "UNetConfig", "digits_unet_config"]

ACTIVATION_NAMES = ("silu", "swish", "mish", "gelu", "relu")
"""Of the residual blocks: keys of `unet_blocks.ACTIVATIONS`, for which PyTorch need not be loaded."""

ATTENTION: dict[str | None, Literal["self", "cross"] | None] = {
    "DownBlock2D": None,
    "ResnetDownsampleBlock2D": None,
    "AttnDownBlock2D": "self",
    "CrossAttnDownBlock2D": "cross",
    "UpBlock2D": None,
    "ResnetUpsampleBlock2D": None,
    "AttnUpBlock2D": "self",
    "CrossAttnUpBlock2D": "cross",
    "UNetMidBlock2D": "self",
    "UNetMidBlock2DCrossAttn": "cross",
    None: None,
}
"""What each block type attends to."""

_DOWN = ("DownBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D")
_UP = ("UpBlock2D", "ResnetUpsampleBlock2D", "AttnUpBlock2D", "CrossAttnUpBlock2D")
_MID = ("UNetMidBlock2D", "UNetMidBlock2DCrossAttn", None)
_CHOICES: dict[str, tuple[object, ...]] = {
    "downsample_padding": (0, 1),
    "freq_shift": (0, 1),
    "flip_sin_to_cos": (False, True),
    "use_linear_projection": (False, True),
    "center_input_sample": (False, True),
    "add_attention": (False, True),
    "time_embedding_type": ("positional", "fourier", "learned"),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "act_fn": ACTIVATION_NAMES,
    "class_embed_type": (None, "timestep"),
    "addition_embed_type": (None, "text_time"),
}


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """A UNet's configuration.

    Attributes:
        sample_size: side of the square sample.
        in_channels: channels of the sample.
        out_channels: channels of the output: as many as of the sample, or twice as many where the second half is about
            the variance (`ScheduleConfig.variance_type`).
        block_out_channels: channels per resolution level.
        layers_per_block: residual blocks per level on the way down (one more on the way up).
        down_block_types: per level, `DownBlock2D`, `ResnetDownsampleBlock2D`, `AttnDownBlock2D` or
            `CrossAttnDownBlock2D`.
        up_block_types: per level from the lowest, `UpBlock2D`, `ResnetUpsampleBlock2D`, `AttnUpBlock2D` or
            `CrossAttnUpBlock2D`.
        mid_block_type: `UNetMidBlock2D` (with self-attention, as in `UNet2DModel`), `UNetMidBlock2DCrossAttn`, or
            None for none.
        attention_head_dim: width of a head of self-attention blocks; None means one head.
        num_attention_heads: heads of cross-attention blocks, or one number per level; `UNet2DConditionModel`'s
            configurations call it `attention_head_dim`.
        transformer_layers_per_block: Transformer blocks per cross-attention block, or one number per level.
        cross_attention_dim: X; None where no block attends to a context.
        use_linear_projection: linear layers around the Transformer blocks instead of 1x1 convolutions.
        only_cross_attention: the Transformer blocks of a level attend to the context alone; one for all levels, or one
            per level.
        num_class_embeds: K, the unconditional class included; None means no class labels.
        null_class: label that means "no class", for classifier-free guidance.
        norm_num_groups: groups of every GroupNorm.
        norm_eps: of the GroupNorms.
        downsample_padding: 1, or 0 for padding at the far ends only.
        flip_sin_to_cos: cosines first in the time embedding.
        freq_shift: subtracted from the number of frequencies in the time embedding's exponent.
        dropout: in the residual blocks, while training.
        time_embedding_type: `positional`: sines and cosines of the step; `fourier`: of the logarithm of the noise
            level that is given in place of a step, at random frequencies, and the output is divided by the level
            (Song et al. 2021); `learned`: a table of `num_train_timesteps` entries.
        time_embedding_dim: M; None for four times the first of `block_out_channels`.
        time_cond_proj_dim: E, width of a condition that is added to the time, such as the scale of a guidance that was
            distilled into the model; None for none.
        num_train_timesteps: entries of a learned time embedding.
        center_input_sample: the sample is in [0, 1], and is taken to [-1, 1].
        downsample_type: of blocks with self-attention: a strided convolution, or a residual block that halves.
        upsample_type: the same on the way up.
        resnet_time_scale_shift: how the time enters a residual block: `default` adds it, `scale_shift` scales and
            shifts a norm.
        act_fn: of the residual blocks, a key of `unet_blocks.ACTIVATIONS`.
        attn_norm_num_groups: groups of the norm of the attention in the middle; None for `norm_num_groups`, or for no
            norm with `scale_shift`.
        add_attention: the middle block has its attention.
        mid_block_scale_factor: what the middle block divides its sums by.
        class_embed_type: None: a table of classes; `timestep`: a class is embedded as a step is.
        addition_embed_type: None, or `text_time`: the embedding of a text and sizes are added to the time; see
            `unet_additions.check_additions` for the next two.
        addition_time_embed_dim: numbers that each size is embedded in.
        projection_class_embeddings_input_dim: numbers of both together.

    Raises:
        ConfigError: a value that the model does not allow; names the field, the value and what is allowed.
    """

    sample_size: int
    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    mid_block_type: str | None = "UNetMidBlock2D"
    attention_head_dim: int | None = 8
    num_attention_heads: int | tuple[int, ...] = 8
    transformer_layers_per_block: int | tuple[int, ...] = 1
    cross_attention_dim: int | None = None
    use_linear_projection: bool = False
    only_cross_attention: bool | tuple[bool, ...] = False
    num_class_embeds: int | None = None
    null_class: int | None = None
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    downsample_padding: int = 1
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    dropout: float = 0.0
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    time_cond_proj_dim: int | None = None
    num_train_timesteps: int | None = None
    center_input_sample: bool = False
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    resnet_time_scale_shift: str = "default"
    act_fn: str = "silu"
    attn_norm_num_groups: int | None = None
    add_attention: bool = True
    mid_block_scale_factor: float = 1.0
    class_embed_type: str | None = None
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None

    def __post_init__(self) -> None:
        require_positive(
            "UNetConfig",
            sample_size=self.sample_size,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            layers_per_block=self.layers_per_block,
            attention_head_dim=self.attention_head_dim,
            cross_attention_dim=self.cross_attention_dim,
            num_class_embeds=self.num_class_embeds,
            norm_num_groups=self.norm_num_groups,
            time_embedding_dim=self.time_embedding_dim,
            time_cond_proj_dim=self.time_cond_proj_dim,
            num_train_timesteps=self.num_train_timesteps,
            attn_norm_num_groups=self.attn_norm_num_groups,
            addition_time_embed_dim=self.addition_time_embed_dim,
            projection_class_embeddings_input_dim=self.projection_class_embeddings_input_dim,
        )
        for field, valid in _CHOICES.items():
            require_one_of("UNetConfig", field, getattr(self, field), valid)
        _require_number("norm_eps", self.norm_eps, "a number above 0", lambda x: 0 < x < math.inf)
        _require_number("dropout", self.dropout, "at least 0 and below 1", lambda x: 0 <= x < 1)
        _require_number(
            "mid_block_scale_factor", self.mid_block_scale_factor, "a number above 0", lambda x: 0 < x < math.inf
        )
        self._check_channels()
        self._check_embeddings()
        self._check_block_types()
        self._check_heads()
        if self.sample_size % self.multiple_of:
            raise _error("sample_size", self.sample_size, f"a multiple of {self.multiple_of}")
        if self.sample_size < self.min_size:
            raise ConfigError(
                f"UNetConfig.norm_num_groups is {self.norm_num_groups}: with sample_size {self.sample_size} a group of "
                "the lowest level is a single number, which a norm makes zero",
                hint="use fewer groups, or a larger sample_size",
            )
        if self.null_class is not None and (
            type(self.null_class) is not int or not 0 <= self.null_class < (self.num_class_embeds or 0)
        ):
            raise _error("null_class", self.null_class, f"a label below num_class_embeds = {self.num_class_embeds}")
        if self.null_class is not None and self.num_class_embeds == 1:
            raise ConfigError(
                "UNetConfig.num_class_embeds is 1 with a null_class: no class is left to ask for",
                hint="set both to None for a model without classes",
            )

    def _check_channels(self) -> None:
        if not isinstance(self.block_out_channels, tuple) or not self.block_out_channels:
            raise _error("block_out_channels", self.block_out_channels, "a tuple with one number per level")
        for channels in self.block_out_channels:
            require_positive("UNetConfig", block_out_channels=channels)
            if channels % self.norm_num_groups:
                raise ConfigError(
                    f"UNetConfig.block_out_channels holds {channels}",
                    hint=f"must be multiples of norm_num_groups = {self.norm_num_groups}",
                )
        first = self.block_out_channels[0]
        if first % 2 or first < 4:
            # As many sines as cosines, at two frequencies or more: freq_shift = 1 divides by one less.
            raise ConfigError(
                f"UNetConfig.block_out_channels starts with {first}",
                hint="must be even and at least 4: it is also the size of the time embedding",
            )

    def _check_embeddings(self) -> None:
        if (self.time_embedding_type == "learned") != (self.num_train_timesteps is not None):
            raise ConfigError(
                f"UNetConfig.num_train_timesteps is {self.num_train_timesteps}",
                hint="set it exactly where time_embedding_type is 'learned'",
            )
        if self.class_embed_type is not None and self.num_class_embeds is None:
            raise ConfigError(
                f"UNetConfig.class_embed_type is {self.class_embed_type!r}, num_class_embeds is None",
                hint="say how many classes there are",
            )
        check_additions(
            self.addition_embed_type, self.addition_time_embed_dim, self.projection_class_embeddings_input_dim
        )
        if self.attn_norm_num_groups is not None and self.block_out_channels[-1] % self.attn_norm_num_groups:
            raise _error(
                "attn_norm_num_groups",
                self.attn_norm_num_groups,
                f"a divisor of the {self.block_out_channels[-1]} channels in the middle",
            )

    def _check_block_types(self) -> None:
        levels = len(self.block_out_channels)
        for field, types, valid in (
            ("down_block_types", self.down_block_types, _DOWN),
            ("up_block_types", self.up_block_types, _UP),
        ):
            if not isinstance(types, tuple):
                raise _error(field, types, "a tuple with one block type per level")
            if len(types) != levels:
                raise ConfigError(
                    f"UNetConfig.{field} has {len(types)} entries", hint=f"block_out_channels has {levels}"
                )
            for kind in types:
                require_one_of("UNetConfig", field, kind, valid)
        require_one_of("UNetConfig", "mid_block_type", self.mid_block_type, _MID)
        crosses = any(ATTENTION[kind] == "cross" for kind, _ in self._blocks())
        if crosses != (self.cross_attention_dim is not None):
            raise ConfigError(
                f"UNetConfig.cross_attention_dim is {self.cross_attention_dim}",
                hint="set it exactly where a block attends to a context",
            )

    def _check_heads(self) -> None:
        for field in ("num_attention_heads", "transformer_layers_per_block"):
            value = getattr(self, field)
            for entry in value if isinstance(value, tuple) else (value,):
                require_positive("UNetConfig", **{field: entry})
                if entry is None:
                    raise _error(field, entry, "an integer of at least 1")
            if isinstance(value, tuple) and len(value) != len(self.block_out_channels):
                raise ConfigError(
                    f"UNetConfig.{field} has {len(value)} entries",
                    hint=f"give one number, or one for each of {len(self.block_out_channels)} levels",
                )
        self._check_only_cross()
        for kind, level in self._blocks():
            channels, attends_to = self.block_out_channels[level], ATTENTION[kind]
            if attends_to == "self" and channels % (self.attention_head_dim or channels):
                raise _error("attention_head_dim", self.attention_head_dim, f"a divisor of the {channels} channels")
            if attends_to == "cross" and channels % self.heads(level):
                raise _error("num_attention_heads", self.heads(level), f"a divisor of the {channels} channels")

    def _check_only_cross(self) -> None:
        value = self.only_cross_attention
        if isinstance(value, tuple) and len(value) != len(self.block_out_channels):
            raise ConfigError(
                f"UNetConfig.only_cross_attention has {len(value)} entries",
                hint=f"give true or false, or one of them for each of {len(self.block_out_channels)} levels",
            )
        for entry in value if isinstance(value, tuple) else (value,):
            if not isinstance(entry, bool):
                raise _error("only_cross_attention", value, "true or false, or one of them per level")

    def _blocks(self) -> list[tuple[str | None, int]]:
        """Block type and level of every stage."""
        levels = len(self.block_out_channels)
        return [
            *((kind, level) for level, kind in enumerate(self.down_block_types)),
            (self.mid_block_type if self.add_attention else None, levels - 1),
            *((kind, levels - 1 - i) for i, kind in enumerate(self.up_block_types)),
        ]

    def heads(self, level: int) -> int:
        """Heads of the cross-attention blocks of a level, 0 being the highest resolution."""
        heads = self.num_attention_heads
        return heads[level] if isinstance(heads, tuple) else heads

    def transformer_layers(self, level: int) -> int:
        """Transformer blocks per cross-attention block of a level."""
        layers = self.transformer_layers_per_block
        return layers[level] if isinstance(layers, tuple) else layers

    def only_cross(self, level: int) -> bool:
        """Whether the Transformer blocks of a level attend to the context alone."""
        only = self.only_cross_attention
        return only[level] if isinstance(only, tuple) else only

    @property
    def time_size(self) -> int:
        """M, the size of the time embedding."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def multiple_of(self) -> int:
        """Number that both sides of a sample must be divisible by."""
        return 1 << (len(self.block_out_channels) - 1)

    @property
    def min_size(self) -> int:
        """Smallest side of a sample.

        The lowest level may be one pixel, unless a group of one of its norms would then be a single number: its blocks
        normalize their own channels, and the first one those of the level above.
        """
        return self.multiple_of * (2 if self.norm_num_groups in self.block_out_channels[-2:] else 1)

    def require_supported_channels(self) -> None:
        """Refuse a model whose output is no prediction about its sample: channels that no sampler could use.

        Raises:
            ConfigError: out_channels is neither in_channels nor twice as many.
        """
        if self.out_channels not in (self.in_channels, 2 * self.in_channels):
            raise ConfigError(
                f"UNetConfig.out_channels is {self.out_channels}, in_channels is {self.in_channels}",
                hint="must be as many, or twice as many for a learned variance; a model that takes more channels than "
                "it gives, as for inpainting, is not supported",
            )

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return config_to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UNetConfig:
        """Read plain JSON, where null means the default; raises ConfigError on an unknown or missing field.

        In a configuration of `UNet2DConditionModel` num_attention_heads is null and `attention_head_dim` the number of
        heads; it is the width of a head here, so one that says something else than the default is refused.
        """
        config = config_from_dict(cls, values)
        width = values.get("attention_head_dim")
        if config.cross_attention_dim and values.get("num_attention_heads", 0) is None and width not in (None, 8):
            raise ConfigError(
                f"UNetConfig.num_attention_heads is null, attention_head_dim is {width}",
                hint="set num_attention_heads: UNet2DConditionModel reads its number from attention_head_dim, which is "
                "the width of a head here",
            )
        return config


def _error(field: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"UNetConfig.{field} is {value!r}", hint=f"must be {allowed}")


def _require_number(field: str, value: object, allowed: str, holds: Callable[[float], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not holds(value):
        raise _error(field, value, allowed)


def digits_unet_config() -> UNetConfig:
    """The shipped model's: 16x16 gray digits, ten classes and the unconditional one, three levels."""
    return UNetConfig(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        block_out_channels=(24, 48, 72),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=24,
        num_class_embeds=11,
        null_class=10,
        norm_num_groups=8,
    )
