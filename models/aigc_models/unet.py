"""The diffusion UNet: residual blocks with self- or cross-attention on a time embedding, down and up again.

Shapes: B batch, C channels, H height, W width, M time-embedding size, T context tokens, X context width, K classes.

One class spans the diffusers library's `UNet2DModel` and `UNet2DConditionModel`: block structure, configuration
fields and tensor names are theirs, so that their state dicts load as they are.

References:
    Ronneberger et al. 2015, "U-Net". Ho et al. 2020, "Denoising Diffusion Probabilistic Models": appendix B.
    Vaswani et al. 2017: sinusoidal embedding, section 3.5. Rombach et al. 2022: cross-attention, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.layers import config_from_dict, config_to_dict, require_one_of, require_positive
from aigc_models.unet_blocks import Downsample, ResnetBlock, SelfAttention, TimestepEmbedding, Transformer, Upsample
from aigc_runtime.errors import ConfigError

__all__ = ["UNet", "UNetConfig", "digits_unet_config"]

_ATTENTION = {
    "DownBlock2D": None,
    "AttnDownBlock2D": "self",
    "CrossAttnDownBlock2D": "cross",
    "UpBlock2D": None,
    "AttnUpBlock2D": "self",
    "CrossAttnUpBlock2D": "cross",
    "UNetMidBlock2D": "self",
    "UNetMidBlock2DCrossAttn": "cross",
}


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """A UNet's configuration; field names are diffusers' own where it has them.

    Attributes:
        sample_size: side of the square sample.
        in_channels: channels of the sample.
        out_channels: channels of the output.
        block_out_channels: channels per resolution level.
        layers_per_block: residual blocks per level on the way down (one more on the way up).
        down_block_types: per level, `DownBlock2D`, `AttnDownBlock2D` or `CrossAttnDownBlock2D`.
        up_block_types: per level from the lowest, `UpBlock2D`, `AttnUpBlock2D` or `CrossAttnUpBlock2D`.
        mid_block_type: `UNetMidBlock2D` or `UNetMidBlock2DCrossAttn`.
        attention_head_dim: width of a head of self-attention blocks; None means one head.
        num_attention_heads: heads of cross-attention blocks.
        transformer_layers_per_block: Transformer blocks per cross-attention block.
        cross_attention_dim: X; None where no block attends to a context.
        use_linear_projection: linear layers around the Transformer blocks instead of 1x1 convolutions.
        num_class_embeds: K, the unconditional class included; None means no class labels.
        null_class: label that means "no class", for classifier-free guidance.
        norm_num_groups: groups of every GroupNorm.
        norm_eps: of the GroupNorms.
        downsample_padding: 1, or 0 for padding at the far ends only.
        flip_sin_to_cos: cosines first in the time embedding.
        freq_shift: subtracted from the number of frequencies in the time embedding's exponent.
        dropout: in the residual blocks, while training.
    """

    sample_size: int
    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    mid_block_type: str = "UNetMidBlock2D"
    attention_head_dim: int | None = 8
    num_attention_heads: int = 8
    transformer_layers_per_block: int = 1
    cross_attention_dim: int | None = None
    use_linear_projection: bool = False
    num_class_embeds: int | None = None
    null_class: int | None = None
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    downsample_padding: int = 1
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_positive(
            "UNetConfig",
            sample_size=self.sample_size,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            layers_per_block=self.layers_per_block,
            attention_head_dim=self.attention_head_dim,
            num_attention_heads=self.num_attention_heads,
            transformer_layers_per_block=self.transformer_layers_per_block,
            cross_attention_dim=self.cross_attention_dim,
            num_class_embeds=self.num_class_embeds,
            norm_num_groups=self.norm_num_groups,
        )
        levels = len(self.block_out_channels)
        for field, types, word in (
            ("down_block_types", self.down_block_types, "Down"),
            ("up_block_types", self.up_block_types, "Up"),
        ):
            if len(types) != levels:
                raise ConfigError(
                    f"UNetConfig.{field} has {len(types)} entries", hint=f"block_out_channels has {levels}"
                )
            for kind in types:
                require_one_of("UNetConfig", field, kind, [k for k in _ATTENTION if f"{word}Block2D" in k])
        require_one_of(
            "UNetConfig", "mid_block_type", self.mid_block_type, ("UNetMidBlock2D", "UNetMidBlock2DCrossAttn")
        )
        require_one_of("UNetConfig", "downsample_padding", self.downsample_padding, (0, 1))
        self._check_channels()
        if self.sample_size % self.multiple_of:
            raise ConfigError(
                f"UNetConfig.sample_size is {self.sample_size}", hint=f"must be a multiple of {self.multiple_of}"
            )
        crosses = any(
            _ATTENTION[k] == "cross" for k in (*self.down_block_types, *self.up_block_types, self.mid_block_type)
        )
        if crosses != (self.cross_attention_dim is not None):
            raise ConfigError(
                f"UNetConfig.cross_attention_dim is {self.cross_attention_dim}",
                hint="set it exactly where a block attends to a context",
            )
        if self.null_class is not None and not 0 <= self.null_class < (self.num_class_embeds or 0):
            raise ConfigError(
                f"UNetConfig.null_class is {self.null_class}", hint="must be a label below num_class_embeds"
            )

    def _check_channels(self) -> None:
        for channels in self.block_out_channels:
            require_positive("UNetConfig", block_out_channels=channels)
            if channels % self.norm_num_groups:
                raise ConfigError(
                    f"UNetConfig.block_out_channels holds {channels}",
                    hint=f"must be multiples of norm_num_groups = {self.norm_num_groups}",
                )

    @property
    def multiple_of(self) -> int:
        """What both sides of a sample must be divisible by."""
        return 1 << (len(self.block_out_channels) - 1)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return config_to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UNetConfig:
        """From plain JSON; raises ConfigError on an unknown or missing field."""
        return config_from_dict(cls, values)


def _attention(config: UNetConfig, kind: str, channels: int) -> nn.Module | None:
    if _ATTENTION[kind] is None:
        return None
    groups = config.norm_num_groups
    if _ATTENTION[kind] == "self":
        heads = channels // (config.attention_head_dim or channels)
        return SelfAttention(channels, heads=heads, groups=groups, eps=config.norm_eps)
    return Transformer(
        channels,
        heads=config.num_attention_heads,
        context=config.cross_attention_dim or channels,
        layers=config.transformer_layers_per_block,
        groups=groups,
        linear_projection=config.use_linear_projection,
    )


def _resnet(config: UNetConfig, n_in: int, n_out: int) -> ResnetBlock:
    return ResnetBlock(
        n_in,
        n_out,
        time_size=4 * config.block_out_channels[0],
        groups=config.norm_num_groups,
        eps=config.norm_eps,
        dropout=config.dropout,
    )


class Stage(nn.Module):
    """One resolution level: residual blocks, each with its attention, and a resampling at the end.

    On the way up each block takes one of the stored outputs of the way down beside its input.
    """

    def __init__(self, config: UNetConfig, kind: str, channels: list[tuple[int, int]]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_resnet(config, n_in, n_out) for n_in, n_out in channels)
        attentions = [_attention(config, kind, n_out) for _, n_out in channels]
        self.attentions = nn.ModuleList(a for a in attentions if a is not None)
        self.downsamplers = nn.ModuleList()
        self.upsamplers = nn.ModuleList()

    def down(self, x: Tensor, time: Tensor, context: Tensor | None, stored: list[Tensor]) -> Tensor:
        """Run the way down, appending every output to `stored`."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            if self.attentions:
                x = self.attentions[i](x, context)
            stored.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            stored.append(x)
        return x

    def up(self, x: Tensor, time: Tensor, context: Tensor | None, stored: list[Tensor]) -> Tensor:
        """Run the way up, taking outputs off the end of `stored`."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, stored.pop()], dim=1), time)
            if self.attentions:
                x = self.attentions[i](x, context)
        for upsample in self.upsamplers:
            x = upsample(x)
        return x


class MidBlock(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        attention = _attention(config, config.mid_block_type, channels)
        self.attentions = nn.ModuleList([attention] if attention is not None else [])
        self.resnets = nn.ModuleList([_resnet(config, channels, channels), _resnet(config, channels, channels)])

    def forward(self, x: Tensor, time: Tensor, context: Tensor | None) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        x = self.resnets[0](x, time)
        for attention in self.attentions:
            x = attention(x, context)
        out: Tensor = self.resnets[1](x, time)
        return out


class UNet(nn.Module):
    """The noise (or velocity) predictor.

    Args:
        config: its configuration.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        sizes = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, sizes[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(sizes[0], 4 * sizes[0])
        self.class_embedding = (
            nn.Embedding(config.num_class_embeds, 4 * sizes[0]) if config.num_class_embeds is not None else None
        )
        skips = self._build_down(config)
        self.mid_block = MidBlock(config, sizes[-1])
        self._build_up(config, skips)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, sizes[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(sizes[0], config.out_channels, 3, padding=1)

    def _build_down(self, config: UNetConfig) -> list[int]:
        """Make `down_blocks`; returns the channels of every stored output, in order."""
        self.down_blocks = nn.ModuleList()
        sizes, skips, n = config.block_out_channels, [config.block_out_channels[0]], config.block_out_channels[0]
        for level, (kind, size) in enumerate(zip(config.down_block_types, sizes, strict=True)):
            stage = Stage(config, kind, [(n if i == 0 else size, size) for i in range(config.layers_per_block)])
            skips += [size] * config.layers_per_block
            if level < len(sizes) - 1:
                stage.downsamplers.append(Downsample(size, padding=config.downsample_padding))
                skips.append(size)
            self.down_blocks.append(stage)
            n = size
        return skips

    def _build_up(self, config: UNetConfig, skips: list[int]) -> None:
        self.up_blocks = nn.ModuleList()
        sizes = config.block_out_channels[::-1]
        n = sizes[0]
        for level, (kind, size) in enumerate(zip(config.up_block_types, sizes, strict=True)):
            channels = []
            for _ in range(config.layers_per_block + 1):
                channels.append((n + skips.pop(), size))
                n = size
            stage = Stage(config, kind, channels)
            if level < len(sizes) - 1:
                stage.upsamplers.append(Upsample(size))
            self.up_blocks.append(stage)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        class_labels: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
    ) -> Tensor:
        """Predict the noise (or velocity) in a noisy sample.

        Args:
            sample: [B, in_channels, H, W]; both sides multiples of `config.multiple_of`.
            timestep: [B] float, in units of training steps; fractions are allowed.
            class_labels: [B] int64 in [0, K), where the model is class-conditional.
            encoder_hidden_states: [B, T, X], where a block attends to a context.

        Returns:
            [B, out_channels, H, W].

        Raises:
            ConfigError: a condition is missing, or given to a model that takes none.
        """
        if (class_labels is None) != (self.class_embedding is None):
            raise ConfigError("class_labels and num_class_embeds go together")
        if (encoder_hidden_states is None) != (self.config.cross_attention_dim is None):
            raise ConfigError("encoder_hidden_states and cross_attention_dim go together")
        time = self.time_embedding(self._sinusoid(timestep))
        if self.class_embedding is not None:
            time = time + self.class_embedding(class_labels)
        x = self.conv_in(sample)
        stored = [x]
        for stage in self._stages("down_blocks"):
            x = stage.down(x, time, encoder_hidden_states, stored)
        x = self.mid_block(x, time, encoder_hidden_states)
        for stage in self._stages("up_blocks"):
            x = stage.up(x, time, encoder_hidden_states, stored)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return out

    def _stages(self, name: str) -> Iterator[Stage]:
        """The stages of `down_blocks` or `up_blocks`, typed."""
        for stage in getattr(self, name):
            if isinstance(stage, Stage):
                yield stage

    def _sinusoid(self, timestep: Tensor) -> Tensor:
        """[B] -> [B, n]: sin and cos of t * 10000^(-i / (n/2 - freq_shift)) (Vaswani 2017, section 3.5)."""
        half = self.config.block_out_channels[0] // 2
        exponent = torch.arange(half, dtype=torch.float32, device=timestep.device) / (half - self.config.freq_shift)
        angle = timestep.float().unsqueeze(1) * torch.exp(-math.log(10000.0) * exponent)
        parts = (angle.cos(), angle.sin()) if self.config.flip_sin_to_cos else (angle.sin(), angle.cos())
        return torch.cat(parts, dim=1)


def digits_unet_config() -> UNetConfig:
    """The shipped model's: 16x16 grey digits, ten classes and the unconditional one, three levels."""
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
