"""The diffusion UNet: residual blocks with self- or cross-attention on a time embedding, down and up again.

Shapes: B batch, C channels, H height, W width, M time-embedding size, T context tokens, X context width, E
width of the time's condition, K classes, P width of the embedding of a text, S = 6 sizes.

One class spans the diffusers library's `UNet2DModel` and `UNet2DConditionModel`: block structure, configuration
fields and tensor names are theirs, so that their state dicts load as they are.

References:
    Ronneberger et al. 2015, "U-Net". Ho et al. 2020, "Denoising Diffusion Probabilistic Models": appendix B.
    Vaswani et al. 2017: sinusoidal embedding, section 3.5. Rombach et al. 2022: cross-attention, section 3.3.
    Luo et al. 2023, "Latent Consistency Models": section 4.1 (guidance as a condition of the time).
    Podell et al. 2023, "SDXL": sections 2.1 to 2.3 (a text's embedding and sizes as conditions of the time).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.families.unet_blocks import (
    Downsample,
    ResnetBlock,
    SelfAttention,
    TimestepEmbedding,
    Transformer,
    Upsample,
)
from aigc_models.families.unet_config import ATTENTION, UNetConfig, digits_unet_config
from aigc_models.families.unet_time import Sinusoid, embed_sizes, make_time_proj
from aigc_runtime.errors import ConfigError, FeedError

__all__ = ["UNet", "UNetConfig", "digits_unet_config"]


def _attention(config: UNetConfig, kind: str | None, level: int) -> nn.Module | None:
    if ATTENTION[kind] is None:
        return None
    channels, groups = config.block_out_channels[level], config.norm_num_groups
    if ATTENTION[kind] == "self":
        heads = channels // (config.attention_head_dim or channels)
        return SelfAttention(channels, heads=heads, groups=groups, eps=config.norm_eps)
    return Transformer(
        channels,
        heads=config.heads(level),
        context=config.cross_attention_dim or channels,
        layers=config.transformer_layers(level),
        groups=groups,
        linear_projection=config.use_linear_projection,
        # The middle block has self-attention whatever the levels have, as in the library whose configuration this is.
        only_cross=config.only_cross(level) and kind != config.mid_block_type,
    )


def _resnet(
    config: UNetConfig,
    n_in: int,
    n_out: int,
    *,
    output_scale: float = 1.0,
    resample: Literal["up", "down"] | None = None,
) -> ResnetBlock:
    return ResnetBlock(
        n_in,
        n_out,
        time_size=config.time_size,
        groups=config.norm_num_groups,
        eps=config.norm_eps,
        dropout=config.dropout,
        activation=config.act_fn,
        scale_shift=config.resnet_time_scale_shift == "scale_shift",
        output_scale=output_scale,
        resample=resample,
    )


def _downsample(config: UNetConfig, kind: str, size: int) -> nn.Module:
    if kind == "ResnetDownsampleBlock2D" or (ATTENTION[kind] == "self" and config.downsample_type == "resnet"):
        return _resnet(config, size, size, resample="down")
    return Downsample(size, padding=config.downsample_padding)


def _upsample(config: UNetConfig, kind: str, size: int) -> nn.Module:
    if kind == "ResnetUpsampleBlock2D" or (ATTENTION[kind] == "self" and config.upsample_type == "resnet"):
        return _resnet(config, size, size, resample="up")
    return Upsample(size)


def _run(resample: nn.Module, x: Tensor, time: Tensor) -> Tensor:
    """A residual block that resamples looks at the time, too."""
    out: Tensor = resample(x, time) if isinstance(resample, ResnetBlock) else resample(x)
    return out


class Stage(nn.Module):
    """One resolution level: residual blocks, each with its attention, and a resampling at the end.

    On the way up each block takes one of the stored outputs of the way down beside its input.
    """

    def __init__(self, config: UNetConfig, kind: str, level: int, channels: list[tuple[int, int]]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_resnet(config, n_in, n_out) for n_in, n_out in channels)
        attentions = [_attention(config, kind, level) for _ in channels]
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
            x = _run(downsample, x, time)
            stored.append(x)
        return x

    def up(self, x: Tensor, time: Tensor, context: Tensor | None, stored: list[Tensor]) -> Tensor:
        """Run the way up, taking outputs off the end of `stored`."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, stored.pop()], dim=1), time)
            if self.attentions:
                x = self.attentions[i](x, context)
        for upsample in self.upsamplers:
            x = _run(upsample, x, time)
        return x


class MidBlock(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        channels = config.block_out_channels[-1]
        attention = self._attention(config) if config.add_attention else None
        self.attentions = nn.ModuleList([attention] if attention is not None else [])
        self.resnets = nn.ModuleList(
            _resnet(config, channels, channels, output_scale=config.mid_block_scale_factor) for _ in range(2)
        )

    @staticmethod
    def _attention(config: UNetConfig) -> nn.Module | None:
        channels, kind = config.block_out_channels[-1], config.mid_block_type
        if ATTENTION[kind] != "self":
            return _attention(config, kind, len(config.block_out_channels) - 1)
        groups = config.attn_norm_num_groups
        if groups is None and config.resnet_time_scale_shift == "default":
            groups = config.norm_num_groups
        heads = channels // (config.attention_head_dim or channels)
        scale = config.mid_block_scale_factor
        return SelfAttention(channels, heads=heads, groups=groups, eps=config.norm_eps, output_scale=scale)

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
        self.time_proj = make_time_proj(config)
        self.time_embedding = TimestepEmbedding(
            self.time_proj.size, config.time_size, condition=config.time_cond_proj_dim
        )
        self.class_embedding = self._class_embedding(config)
        self.add_embedding: TimestepEmbedding | None = None
        if config.addition_time_embed_dim is not None and config.projection_class_embeddings_input_dim is not None:
            self.add_time_proj = Sinusoid(
                config.addition_time_embed_dim, flip_sin_to_cos=config.flip_sin_to_cos, freq_shift=config.freq_shift
            )
            self.add_embedding = TimestepEmbedding(config.projection_class_embeddings_input_dim, config.time_size)
        skips = self._build_down(config)
        self.mid_block = None if config.mid_block_type is None else MidBlock(config)
        self._build_up(config, skips)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, sizes[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(sizes[0], config.out_channels, 3, padding=1)

    def _class_embedding(self, config: UNetConfig) -> nn.Module | None:
        if config.num_class_embeds is None:
            return None
        if config.class_embed_type == "timestep":
            return TimestepEmbedding(self.time_proj.size, config.time_size)
        return nn.Embedding(config.num_class_embeds, config.time_size)

    def _build_down(self, config: UNetConfig) -> list[int]:
        """Make `down_blocks`; returns the channels of every stored output, in order."""
        self.down_blocks = nn.ModuleList()
        sizes, skips, n = config.block_out_channels, [config.block_out_channels[0]], config.block_out_channels[0]
        for level, (kind, size) in enumerate(zip(config.down_block_types, sizes, strict=True)):
            stage = Stage(config, kind, level, [(n if i == 0 else size, size) for i in range(config.layers_per_block)])
            skips += [size] * config.layers_per_block
            if level < len(sizes) - 1:
                stage.downsamplers.append(_downsample(config, kind, size))
                skips.append(size)
            self.down_blocks.append(stage)
            n = size
        return skips

    def _build_up(self, config: UNetConfig, skips: list[int]) -> None:
        self.up_blocks = nn.ModuleList()
        sizes = config.block_out_channels[::-1]
        n = sizes[0]
        for i, (kind, size) in enumerate(zip(config.up_block_types, sizes, strict=True)):
            level = len(sizes) - 1 - i
            channels = []
            for _ in range(config.layers_per_block + 1):
                channels.append((n + skips.pop(), size))
                n = size
            stage = Stage(config, kind, level, channels)
            if level > 0:
                stage.upsamplers.append(_upsample(config, kind, size))
            self.up_blocks.append(stage)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        class_labels: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        timestep_cond: Tensor | None = None,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
    ) -> Tensor:
        """Predict the noise (or velocity) in a noisy sample.

        Args:
            sample: [B, in_channels, H, W]; both sides multiples of `config.multiple_of`.
            timestep: [B] float, in units of training steps; fractions are allowed.
            class_labels: [B] int64 in [0, K), where the model is class-conditional.
            encoder_hidden_states: [B, T, X], where a block attends to a context.
            timestep_cond: [B, E], where the time has a condition.
            text_embeds: [B, P], where the embedding of a text is added to the time.
            time_ids: [B, S] float, with it: what `unet_additions.SIZE_IDS` says.

        Returns:
            [B, out_channels, H, W].

        Raises:
            ConfigError: a condition is missing, or given to a model that takes none.
            FeedError: a side of the sample that cannot be halved at every level.
        """
        _require_condition("class_labels", class_labels, "num_class_embeds", self.config.num_class_embeds)
        _require_condition(
            "encoder_hidden_states", encoder_hidden_states, "cross_attention_dim", self.config.cross_attention_dim
        )
        _require_condition("timestep_cond", timestep_cond, "time_cond_proj_dim", self.config.time_cond_proj_dim)
        for name, value in (("text_embeds", text_embeds), ("time_ids", time_ids)):
            _require_condition(name, value, "addition_time_embed_dim", self.config.addition_time_embed_dim)
        _, _, height, width = sample.shape
        if height % self.config.multiple_of or width % self.config.multiple_of:
            raise FeedError(
                f"sample is {height} high and {width} wide",
                hint=f"both sides must be multiples of {self.config.multiple_of}",
            )
        time = self.time_embedding(self.time_proj(timestep).to(sample.dtype), timestep_cond)
        if self.class_embedding is not None and class_labels is not None:
            labels = class_labels
            if self.config.class_embed_type == "timestep":
                labels = self.time_proj(class_labels).to(sample.dtype)
            time = time + self.class_embedding(labels)
        if self.add_embedding is not None and text_embeds is not None and time_ids is not None:
            sizes = embed_sizes(time_ids, self.add_time_proj).to(sample.dtype)
            time = time + self.add_embedding(torch.cat([text_embeds, sizes], dim=1))
        x = self.conv_in(2 * sample - 1 if self.config.center_input_sample else sample)
        stored = [x]
        for stage in self._stages("down_blocks"):
            x = stage.down(x, time, encoder_hidden_states, stored)
        if self.mid_block is not None:
            x = self.mid_block(x, time, encoder_hidden_states)
        for stage in self._stages("up_blocks"):
            x = stage.up(x, time, encoder_hidden_states, stored)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return self.time_proj.finish(out, timestep)

    def _stages(self, name: str) -> Iterator[Stage]:
        """The stages of `down_blocks` or `up_blocks`, typed."""
        for stage in getattr(self, name):
            if isinstance(stage, Stage):
                yield stage


def _require_condition(name: str, value: Tensor | None, field: str, size: int | None) -> None:
    if value is None and size is not None:
        raise ConfigError(f"{name} is missing", hint=f"this model was built with {field} = {size}: pass {name}")
    if value is not None and size is None:
        raise ConfigError(f"{name} was given", hint=f"this model was built without {field}: leave {name} out")
