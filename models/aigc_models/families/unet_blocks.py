"""The parts of the diffusion UNet: residual block, self-attention, Transformer block, resampling.

Shapes: B batch, C channels, H height, W width, L = H * W positions, M time-embedding size, T context tokens,
X context width, N heads, E head width.

Module and tensor names are those of the diffusers library's UNets, so that their weights map one to one.

References:
    Vaswani et al. 2017: attention eq. 1. Wu & He 2018, "Group Normalization": eq. 1.
    Ho et al. 2020, "Denoising Diffusion Probabilistic Models": appendix B (architecture).
    Rombach et al. 2022, "Latent Diffusion Models": appendix E.2.1 (cross-attention block).
    Shazeer 2020: GEGLU eq. 5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "Downsample", "ResnetBlock", "SelfAttention", "TimestepEmbedding", "Transformer", "Upsample"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "relu": F.relu,
}
"""Of the residual blocks, by diffusers' names."""


class TimestepEmbedding(nn.Module):
    """Two linear layers with SiLU between them: [B, n_in] -> [B, M]; what a condition says is added in front."""

    def __init__(self, n_in: int, size: int, *, condition: int | None = None) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(n_in, size)
        self.cond_proj = None if condition is None else nn.Linear(condition, n_in, bias=False)
        self.linear_2 = nn.Linear(size, size)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """([B, n_in], [B, E] or None) -> [B, M]."""
        if self.cond_proj is not None and condition is not None:
            x = x + self.cond_proj(condition)
        out: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return out


class ResnetBlock(nn.Module):
    """(shortcut(x) + conv(act(norm(conv(act(norm(x))) + time)))) / scale (Ho 2020, appendix B).

    Args:
        n_in: input channels.
        n_out: output channels; a 1x1 convolution adapts the shortcut where they differ.
        time_size: M; None for a block that does not look at the time.
        groups: groups of the norms.
        eps: of the norms.
        dropout: before the second convolution, while training.
        activation: a key of `ACTIVATIONS`.
        scale_shift: the time scales and shifts the second norm, in place of being added in front of it (Dhariwal &
            Nichol 2021, section 3).
        output_scale: the sum is divided by it.
        resample: `up` doubles, `down` halves both sides, of the shortcut and in front of the first convolution.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        time_size: int | None,
        groups: int,
        eps: float,
        dropout: float,
        activation: str = "silu",
        scale_shift: bool = False,
        output_scale: float = 1.0,
        resample: Literal["up", "down"] | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.scale_shift, self.output_scale = ACTIVATIONS[activation], scale_shift, output_scale
        self.resample = resample
        self.norm1 = nn.GroupNorm(groups, n_in, eps=eps)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.time_emb_proj = None if time_size is None else nn.Linear(time_size, 2 * n_out if scale_shift else n_out)
        self.norm2 = nn.GroupNorm(groups, n_out, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else None

    def forward(self, x: Tensor, time_BM: Tensor | None = None) -> Tensor:
        """([B, n_in, H, W], [B, M]) -> [B, n_out, H, W], or of other sides where it resamples."""
        h = self._timed(self.conv1(self._resampled(self.activation(self.norm1(x)))), time_BM)
        h = self.conv2(self.dropout(self.activation(h)))
        x = self._resampled(x)
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        out: Tensor = shortcut + h
        return out if self.output_scale == 1 else out / self.output_scale

    def _timed(self, h: Tensor, time_BM: Tensor | None) -> Tensor:
        """The second norm, with the time in it where there is one."""
        if self.time_emb_proj is None:
            out: Tensor = self.norm2(h)
            return out
        assert time_BM is not None
        time = self.time_emb_proj(self.activation(time_BM))[:, :, None, None]
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            out = self.norm2(h) * (1 + scale) + shift
        else:
            out = self.norm2(h + time)
        return out

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample is None:
            return x
        return F.avg_pool2d(x, 2) if self.resample == "down" else F.interpolate(x, scale_factor=2.0, mode="nearest")


class Attention(nn.Module):
    """Multi-head attention of [B, L, C] over itself or over a context (Vaswani 2017, eq. 1)."""

    def __init__(self, channels: int, *, heads: int, context: int | None, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=bias)
        self.to_k = nn.Linear(context or channels, channels, bias=bias)
        self.to_v = nn.Linear(context or channels, channels, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x_BLC: Tensor, context_BTX: Tensor | None = None) -> Tensor:
        """([B, L, C], [B, T, X] or None) -> [B, L, C]."""
        source = x_BLC if context_BTX is None else context_BTX
        q, k, v = (
            torch.unflatten(linear(h), -1, (self.heads, -1)).transpose(1, 2)
            for linear, h in ((self.to_q, x_BLC), (self.to_k, source), (self.to_v, source))
        )
        out_BNLE = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.to_out[0](out_BNLE.transpose(1, 2).flatten(2))
        return out


class SelfAttention(Attention):
    """(x + attention(norm(x))) / scale over the positions of an image; no norm where there are no groups."""

    def __init__(self, channels: int, *, heads: int, groups: int | None, eps: float, output_scale: float = 1.0) -> None:
        super().__init__(channels, heads=heads, context=None, bias=True)
        self.group_norm = None if groups is None else nn.GroupNorm(groups, channels, eps=eps)
        self.output_scale = output_scale

    def forward(self, x_BCHW: Tensor, _context: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        h = x_BCHW if self.group_norm is None else self.group_norm(x_BCHW)
        out = x_BCHW + super().forward(h.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x_BCHW.shape)
        return out if self.output_scale == 1 else out / self.output_scale


class GEGLU(nn.Module):
    """proj(x) split in two: first * gelu(second) (Shazeer 2020, eq. 5)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(n_in, 2 * n_out)

    def forward(self, x: Tensor) -> Tensor:
        """[..., n_in] -> [..., n_out]."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        out: Tensor = value * F.gelu(gate)
        return out


class FeedForward(nn.Module):
    """GEGLU with four times the width, and back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Index 1 is the place of a dropout in the library whose names these are; the weights are at 0 and 2.
        self.net = nn.ModuleList([GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, C]."""
        for layer in self.net:
            x = layer(x)
        return x


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each with a LayerNorm before and a residual.

    With `only_cross` the first attention looks at the context, too.
    """

    def __init__(self, channels: int, *, heads: int, context: int, only_cross: bool = False) -> None:
        super().__init__()
        self.only_cross = only_cross
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads=heads, context=context if only_cross else None, bias=False)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, heads=heads, context=context, bias=False)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x_BLC: Tensor, context_BTX: Tensor | None) -> Tensor:
        """([B, L, C], [B, T, X]) -> [B, L, C]."""
        x_BLC = x_BLC + self.attn1(self.norm1(x_BLC), context_BTX if self.only_cross else None)
        x_BLC = x_BLC + self.attn2(self.norm2(x_BLC), context_BTX)
        out: Tensor = x_BLC + self.ff(self.norm3(x_BLC))
        return out


class Transformer(nn.Module):
    """Transformer blocks over the positions of an image, with cross-attention to a context (Rombach 2022).

    Args:
        channels: C.
        heads: N.
        context: X.
        layers: Transformer blocks.
        groups: groups of the norm.
        linear_projection: project in and out by a linear layer instead of a 1x1 convolution.
        only_cross: no block attends to the image itself.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        context: int,
        layers: int,
        groups: int,
        linear_projection: bool,
        only_cross: bool = False,
    ) -> None:
        super().__init__()
        self.linear_projection = linear_projection
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear_projection else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads=heads, context=context, only_cross=only_cross) for _ in range(layers)
        )
        self.proj_out = nn.Linear(channels, channels) if linear_projection else nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCHW: Tensor, context_BTX: Tensor | None) -> Tensor:
        """([B, C, H, W], [B, T, X]) -> [B, C, H, W]."""
        h = self.norm(x_BCHW)
        if self.linear_projection:
            h_BLC = self.proj_in(h.flatten(2).transpose(1, 2))
        else:
            h_BLC = self.proj_in(h).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            h_BLC = block(h_BLC, context_BTX)
        if self.linear_projection:
            h = self.proj_out(h_BLC).transpose(1, 2).reshape(x_BCHW.shape)
        else:
            h = self.proj_out(h_BLC.transpose(1, 2).reshape(x_BCHW.shape))
        out: Tensor = x_BCHW + h
        return out


class Downsample(nn.Module):
    """Strided 3x3 convolution: halves both sides. Padding 0 means one row and column at the far ends."""

    def __init__(self, channels: int, *, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H/2, W/2]."""
        out: Tensor = self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Nearest-neighbor doubling and a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, 2H, 2W]."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out
