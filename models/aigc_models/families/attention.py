"""Causal self-attention over a cache, with the choices that language models make; and the norm that it uses.

Shapes: as in `lm`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.families.lm_config import LMConfig
from aigc_models.families.rope import Rotation

__all__ = ["Attention", "Cache", "KeyValue", "RMSNorm", "soft_cap"]

KeyValue = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * g (Zhang & Sennrich 2019, eq. 4), over the last axis."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> [..., size]. Written as Pow, ReduceMean, Add, Sqrt, Div, Mul: the form that engines fuse."""
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def soft_cap(x: Tensor, cap: float | None) -> Tensor:
    """Compute cap tanh(x / cap), which stays within -cap and cap (Gemma 2, section 2); without a cap x itself."""
    return x if cap is None else (x / cap).tanh() * cap


class Cache(NamedTuple):
    """Appends one layer's new keys and values to the past ones.

    Attributes:
        key: [B, N, P, E], or the buffer [B, N, C, E].
        value: like `key`.
        slots: for a buffer, [B, N, S, E] int64: the index along axis 2 of every new element; else None.
    """

    key: Tensor
    value: Tensor
    slots: Tensor | None

    def extend(self, key: Tensor, value: Tensor) -> KeyValue:
        """Append new keys and values to the past ones; returns both together."""
        if self.slots is None:
            return torch.cat([self.key, key], dim=2), torch.cat([self.value, value], dim=2)
        # One ScatterElements each, which an engine can do in place.
        return self.key.scatter(2, self.slots, key), self.value.scatter(2, self.slots, value)


class Attention(nn.Module):
    """Causal self-attention with grouped key/value heads."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = config.n_heads, config.kv_heads, config.head_size
        self.scale = config.head_size**-0.5 if config.attention_scale is None else config.attention_scale
        self.cap, self.norm_width = config.attention_soft_cap, config.qk_norm == "width"
        d, e = config.d_model, config.head_size
        self.q_proj = nn.Linear(d, config.n_heads * e, bias=config.qkv_bias)
        self.k_proj = nn.Linear(d, config.kv_heads * e, bias=config.qkv_bias)
        self.v_proj = nn.Linear(d, config.kv_heads * e, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.n_heads * e, d, bias=config.out_bias)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if config.qk_norm != "none":
            q_heads, k_heads = (config.n_heads, config.kv_heads) if self.norm_width else (1, 1)
            self.q_norm, self.k_norm = (RMSNorm(n * e, config.norm_eps) for n in (q_heads, k_heads))

    def _normed(self, x_BSD: Tensor, norm: nn.Module, heads: int) -> Tensor:
        """[B, S, heads * E] -> [B, heads, S, E], normed over all heads or over each."""
        over_all = norm(x_BSD) if self.norm_width else x_BSD
        heads_BSHE: Tensor = torch.unflatten(over_all, -1, (heads, self.head_size))
        normed: Tensor = heads_BSHE if self.norm_width else norm(heads_BSHE)
        return normed.transpose(1, 2)

    def forward(
        self, x_BSD: Tensor, rotation: Rotation | None, bias: Tensor | None, cache: Cache | None
    ) -> tuple[Tensor, KeyValue]:
        """Attend.

        Args:
            x_BSD: [B, S, D].
            rotation: rotary factors, or None.
            bias: [B, 1, S, T] float, 0 where key T is visible to query S and -inf elsewhere; None means plain
                causal with no past.
            cache: past keys and values, or None.

        Returns:
            ([B, S, D], present keys and values).
        """
        q = self._normed(self.q_proj(x_BSD), self.q_norm, self.heads)
        k = self._normed(self.k_proj(x_BSD), self.k_norm, self.kv_heads)
        v = self.v_proj(x_BSD).unflatten(-1, (self.kv_heads, self.head_size)).transpose(1, 2)
        if rotation is not None:
            q, k = rotation.apply(q), rotation.apply(k)
        if cache is not None:
            k, v = cache.extend(k, v)
        if bias is None:
            out = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=self.scale, enable_gqa=self.heads != self.kv_heads
            )
        else:
            out = self._attend(q, k, v, bias)
        projected: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return projected, (k, v)

    def _attend(self, q_BHSE: Tensor, k_BNTE: Tensor, v_BNTE: Tensor, bias_B1ST: Tensor) -> Tensor:
        """softmax(Q K^T / sqrt(E)) V (Vaswani 2017, eq. 1); the G heads of a group share keys (Ainslie 2023).

        Spelled out, so that no key or value is repeated in memory in the exported graph.
        """
        if self.heads != self.kv_heads:
            # [B, N, G, S, E]: every group of queries beside its one key and value head
            q_BHSE = torch.unflatten(q_BHSE, 1, (self.kv_heads, -1))
            k_BNTE, v_BNTE, bias_B1ST = k_BNTE.unsqueeze(2), v_BNTE.unsqueeze(2), bias_B1ST.unsqueeze(2)
        scores = soft_cap((q_BHSE * self.scale) @ k_BNTE.transpose(-1, -2), self.cap) + bias_B1ST
        out: Tensor = scores.softmax(dim=-1) @ v_BNTE
        return torch.flatten(out, 1, 2) if self.heads != self.kv_heads else out
