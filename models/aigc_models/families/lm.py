"""A decoder-only Transformer language model; one configuration spans the classic and the modern form.

Shapes: B batch, S new tokens (sequence), P past tokens, T = P + S keys, C buffer capacity, D model width,
H query heads, N key/value heads, G = H / N, E head width, V vocabulary.

Tensor names follow the Llama family (`layers.0.self_attn.q_proj.weight`, ...), so that Llama- and Qwen-shaped
checkpoints map one to one.

References:
    Vaswani et al. 2017, "Attention Is All You Need": attention eq. 1, feed-forward eq. 2, positions section 3.5.
    Radford et al. 2019, "Language Models are Unsupervised Multitask Learners": initialization, section 2.3.
    Su et al. 2021, "RoFormer": rotary position embedding eq. 34.
    Zhang & Sennrich 2019, "Root Mean Square Layer Normalization": eq. 4.
    Shazeer 2020, "GLU Variants Improve Transformer": SwiGLU eq. 6.
    Ainslie et al. 2023, "GQA": section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.families.lm_config import LMConfig

__all__ = ["LMConfig", "LMOutput", "TransformerLM", "next_token_loss"]

KeyValue = tuple[Tensor, Tensor]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "swiglu": F.silu,
}


class LMOutput(NamedTuple):
    """The result of a forward pass.

    Attributes:
        logits: [B, S, V], or [B, K, V] of the places that were asked for.
        present: per layer (key, value), each [B, N, T, E], or [B, N, C, E] for a buffer.
    """

    logits: Tensor
    present: list[KeyValue]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * g (Zhang & Sennrich 2019, eq. 4), over the last axis."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> [..., size]. Written as Pow, ReduceMean, Add, Sqrt, Div, Mul: the form that engines fuse."""
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def _norm(config: LMConfig) -> nn.Module:
    if config.norm == "rmsnorm":
        return RMSNorm(config.d_model, config.norm_eps)
    return nn.LayerNorm(config.d_model, eps=config.norm_eps)


class Rotation(NamedTuple):
    """Rotary factors at the positions of the new tokens.

    Attributes:
        cos: [B, 1, S, E].
        sin: [B, 1, S, E]; the first half is negated, which saves a Neg per use.
    """

    cos: Tensor
    sin: Tensor

    def apply(self, x_BHSE: Tensor) -> Tensor:
        """Rotate pairs (x_i, x_{i + E/2}) (Su 2021, eq. 34, with the halves interleaved as in Llama)."""
        first, second = x_BHSE.chunk(2, dim=-1)
        return x_BHSE * self.cos + torch.cat([second, first], dim=-1) * self.sin


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
        d, e = config.d_model, config.head_size
        self.q_proj = nn.Linear(d, config.n_heads * e, bias=config.qkv_bias)
        self.k_proj = nn.Linear(d, config.kv_heads * e, bias=config.qkv_bias)
        self.v_proj = nn.Linear(d, config.kv_heads * e, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.n_heads * e, d, bias=config.out_bias)
        self.q_norm: nn.Module = RMSNorm(e, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm: nn.Module = RMSNorm(e, config.norm_eps) if config.qk_norm else nn.Identity()

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
        q = self.q_norm(self.q_proj(x_BSD).unflatten(-1, (self.heads, self.head_size))).transpose(1, 2)
        k = self.k_norm(self.k_proj(x_BSD).unflatten(-1, (self.kv_heads, self.head_size))).transpose(1, 2)
        v = self.v_proj(x_BSD).unflatten(-1, (self.kv_heads, self.head_size)).transpose(1, 2)
        if rotation is not None:
            q, k = rotation.apply(q), rotation.apply(k)
        if cache is not None:
            k, v = cache.extend(k, v)
        if bias is None:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
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
        scores = (q_BHSE * self.head_size**-0.5) @ k_BNTE.transpose(-1, -2) + bias_B1ST
        out: Tensor = scores.softmax(dim=-1) @ v_BNTE
        return torch.flatten(out, 1, 2) if self.heads != self.kv_heads else out


class FeedForward(nn.Module):
    """down(f(up(x))) (Vaswani 2017, eq. 2), or down(silu(gate(x)) * up(x)) (Shazeer 2020, eq. 6)."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[config.activation]
        self.gate_proj = None
        if config.activation == "swiglu":
            self.gate_proj = nn.Linear(config.d_model, config.d_ff, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.d_model, config.d_ff, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.d_ff, config.d_model, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        up = self.up_proj(x)
        hidden = self.activation(up) if self.gate_proj is None else self.activation(self.gate_proj(x)) * up
        out: Tensor = self.down_proj(hidden)
        return out


class Block(nn.Module):
    """Attention and feed-forward, each with a residual and a norm before (`pre`) or after (`post`) it."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.pre = config.norm_position == "pre"
        self.input_layernorm = _norm(config)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = _norm(config)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, rotation: Rotation | None, bias: Tensor | None, cache: Cache | None
    ) -> tuple[Tensor, KeyValue]:
        """[B, S, D] -> ([B, S, D], present); the arguments are those of `Attention`."""
        if self.pre:
            attended, present = self.self_attn(self.input_layernorm(x), rotation, bias, cache)
            x = x + self.dropout(attended)
            return x + self.dropout(self.mlp(self.post_attention_layernorm(x))), present
        attended, present = self.self_attn(x, rotation, bias, cache)
        x = self.input_layernorm(x + self.dropout(attended))
        return self.post_attention_layernorm(x + self.dropout(self.mlp(x))), present


class TransformerLM(nn.Module):
    """The language model.

    Args:
        config: its configuration.
    """

    rope_cos: Tensor
    rope_sin: Tensor
    sinusoid: Tensor

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        if config.position == "learned":
            self.embed_positions = nn.Embedding(config.context_length, config.d_model)
        elif config.position == "rope":
            cos, sin = _rotary_tables(config)
            self.register_buffer("rope_cos", cos, persistent=False)
            self.register_buffer("rope_sin", sin, persistent=False)
        else:
            self.register_buffer("sinusoid", _sinusoid(config), persistent=False)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        has_norm = config.final_norm if config.final_norm is not None else config.norm_position == "pre"
        self.norm: nn.Module = _norm(config) if has_norm else nn.Identity()
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self._initialize()
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def _initialize(self) -> None:
        """N(0, 0.02); projections into the residual stream scaled by 1/sqrt(2 layers) (Radford 2019, section 2.3)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.n_layers) if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(
        self,
        input_ids: Tensor,
        *,
        pad_length: Tensor | None = None,
        past: Sequence[KeyValue] | None = None,
        past_length: Tensor | None = None,
        logits_to_keep: Tensor | None = None,
    ) -> LMOutput:
        """Logits of the next token at every position, or at those that are asked for.

        Args:
            input_ids: [B, S] int64.
            pad_length: [B] int64: how many of each row's first tokens, counted from the very first position, are
                left padding. Padding is never attended to and takes no position. None means no padding.
            past: per layer (key, value): growing, [B, N, P, E] each; or, with `past_length`, buffers [B, N, C, E].
            past_length: [1] int64, tokens held in the buffers; new ones are written behind them. P + S <= C.
            logits_to_keep: [K] int64, places in `input_ids` whose logits are returned, [B, K, V]: generation needs
                those of the last alone, and with a large vocabulary all of them take more memory than the model. None
                means every place.

        Returns:
            Logits and the present keys and values.
        """
        s = input_ids.shape[1]
        held = 0 if past is None else past[0][0].shape[2]
        keys = held if past_length is not None else held + s
        index_S = torch.arange(s, device=input_ids.device) + (held if past_length is None else past_length)
        position_BS = index_S.unsqueeze(0).expand(input_ids.shape)
        if pad_length is not None:
            position_BS = (position_BS - pad_length.unsqueeze(1)).clamp(min=0)
        bias = None
        if past is not None or pad_length is not None:
            bias = _visibility_bias(index_S, keys, pad_length)
        slots = None
        if past_length is not None and past is not None:
            shape = (input_ids.shape[0], self.config.kv_heads, s, self.config.head_size)
            slots = index_S.view(1, 1, -1, 1).expand(shape)
        x, rotation = self._embed(input_ids, position_BS)
        present: list[KeyValue] = []
        for i, layer in enumerate(self.layers):
            cache = None if past is None else Cache(past[i][0], past[i][1], slots)
            x, key_value = layer(x, rotation, bias, cache)
            present.append(key_value)
        kept = x if logits_to_keep is None else x.index_select(1, logits_to_keep)
        return LMOutput(self.lm_head(self.norm(kept)), present)

    def _embed(self, input_ids: Tensor, position_BS: Tensor) -> tuple[Tensor, Rotation | None]:
        x = self.embed_tokens(input_ids)
        if self.config.scale_embedding:
            x = x * math.sqrt(self.config.d_model)
        rotation = None
        if self.config.position == "rope":
            rotation = Rotation(self.rope_cos[position_BS].unsqueeze(1), self.rope_sin[position_BS].unsqueeze(1))
        elif self.config.position == "learned":
            x = x + self.embed_positions(position_BS)
        else:
            x = x + self.sinusoid[position_BS]
        return self.dropout(x), rotation


def _visibility_bias(index_S: Tensor, keys: int, pad_length: Tensor | None) -> Tensor:
    """[B or 1, 1, S, T]: 0 where key j is visible to query i, -inf elsewhere.

    Visible: pad_length <= j <= i, and j == i always, so that a padding query never divides by zero.
    """
    j = torch.arange(keys, device=index_S.device).view(1, 1, 1, -1)
    i = index_S.view(1, 1, -1, 1)
    visible = j <= i
    if pad_length is not None:
        visible = visible & (j >= pad_length.view(-1, 1, 1, 1)) | (j == i)
    return torch.where(visible, 0.0, -torch.inf)


def _rotary_tables(config: LMConfig) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position * theta^(-2i/E), [context, E] each, computed in float64."""
    e = config.head_size
    frequency = config.rope_theta ** (-torch.arange(0, e, 2, dtype=torch.float64) / e)
    angle = torch.outer(torch.arange(config.context_length, dtype=torch.float64), frequency)
    cos, sin = angle.cos().float(), angle.sin().float()
    return torch.cat([cos, cos], dim=1), torch.cat([-sin, sin], dim=1)


def _sinusoid(config: LMConfig) -> Tensor:
    """PE(pos, 2i) = sin(pos / 10000^(2i/D)), PE(pos, 2i+1) = cos(...) (Vaswani 2017, section 3.5): [context, D]."""
    d = config.d_model
    frequency = 10000.0 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    angle = torch.outer(torch.arange(config.context_length, dtype=torch.float64), frequency)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1).float()


def next_token_loss(logits: Tensor, input_ids: Tensor, pad_length: Tensor | None = None) -> Tensor:
    """Mean cross-entropy -log p(x_{t+1} | x_{<=t}) in nats, over targets that are not padding.

    Args:
        logits: [B, S, V].
        input_ids: [B, S]; the logits at t are scored against the token at t + 1.
        pad_length: [B] left-padding tokens, whose positions do not count.
    """
    targets = input_ids[:, 1:]
    if pad_length is not None:
        # The first real token is not predicted from padding either.
        t = torch.arange(1, input_ids.shape[1], device=input_ids.device)
        targets = targets.masked_fill(t.unsqueeze(0) <= pad_length.unsqueeze(1), -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100)
