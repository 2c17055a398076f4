"""A decoder-only Transformer language model; one configuration spans the classic and the modern forms.

Shapes: B batch, S new tokens (sequence), P past tokens, T = P + S keys, C buffer capacity, D model width,
H query heads, N key/value heads, G = H / N, E head width, V vocabulary.

Tensor names follow the Llama family (`layers.0.self_attn.q_proj.weight`, ...), so that Llama- and Qwen-shaped
checkpoints map one to one.

References:
    Vaswani et al. 2017, "Attention Is All You Need": attention eq. 1, feed-forward eq. 2, positions section 3.5.
    Radford et al. 2019, "Language Models are Unsupervised Multitask Learners": initialization, section 2.3.
    Su et al. 2021, "RoFormer": rotary position embedding eq. 34; see `rope`.
    Beltagy et al. 2020, "Longformer": sliding window attention, section 3.1.
    Wang & Komatsuzaki 2021, "GPT-J-6B": attention and feed-forward in parallel.
    Gemma Team 2024, "Gemma 2": soft caps and norms on both sides of a branch, section 2.
    OLMo Team 2024, "2 OLMo 2 Furious": norms of the branches' outputs, and of queries and keys, section 3.
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

from aigc_models.families.attention import Attention, Cache, KeyValue, RMSNorm, soft_cap
from aigc_models.families.lm_config import GATED, LMConfig
from aigc_models.families.rope import Rotation, rotary_frequencies, rotation_at

__all__ = ["LMConfig", "LMOutput", "TransformerLM", "next_token_loss"]


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": F.silu,
    "swiglu": F.silu,
    "geglu": F.gelu,
    "geglu_tanh": _gelu_tanh,
    "reglu": F.relu,
}


class LMOutput(NamedTuple):
    """The result of a forward pass.

    Attributes:
        logits: [B, S, V], or [B, K, V] of the places that were asked for.
        present: per layer (key, value), each [B, N, T, E], or [B, N, C, E] for a buffer.
    """

    logits: Tensor
    present: list[KeyValue]


def _norm(config: LMConfig) -> nn.Module:
    if config.norm == "rmsnorm":
        return RMSNorm(config.d_model, config.norm_eps)
    return nn.LayerNorm(config.d_model, eps=config.norm_eps)


class FeedForward(nn.Module):
    """down(f(up(x))) (Vaswani 2017, eq. 2), or down(f(gate(x)) * up(x)) (Shazeer 2020, eqs. 5 and 6)."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[config.activation]
        self.gate_proj = None
        if config.activation in GATED:
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
    """Attention and feed-forward, each with a residual, and with norms before it, after it or on both sides.

    The norms have the names that the families give them: `post_attention_layernorm` stands before the feed-forward of
    a `pre` block, and after the attention of every other.
    """

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.form, self.parallel, self.scale = config.norm_position, config.parallel, config.residual_scale
        if self.form != "output":
            self.input_layernorm = _norm(config)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = _norm(config)
        if self.form == "sandwich":
            self.pre_feedforward_layernorm = _norm(config)
        if self.form in ("output", "sandwich"):
            self.post_feedforward_layernorm = _norm(config)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, rotation: Rotation | None, bias: Tensor | None, cache: Cache | None
    ) -> tuple[Tensor, KeyValue]:
        """[B, S, D] -> ([B, S, D], present); the arguments are those of `Attention`."""
        read = self.input_layernorm(x) if self.form in ("pre", "sandwich") else x
        attended, present = self.self_attn(read, rotation, bias, cache)
        if self.parallel:
            return x + self._added(attended) + self._added(self.mlp(self.post_attention_layernorm(x))), present
        if self.form == "pre":
            x = x + self._added(attended)
            return x + self._added(self.mlp(self.post_attention_layernorm(x))), present
        if self.form == "post":
            x = self.input_layernorm(x + self._added(attended))
            return self.post_attention_layernorm(x + self._added(self.mlp(x))), present
        x = x + self._added(self.post_attention_layernorm(attended))
        read = self.pre_feedforward_layernorm(x) if self.form == "sandwich" else x
        return x + self._added(self.post_feedforward_layernorm(self.mlp(read))), present

    def _added(self, branch: Tensor) -> Tensor:
        """What a branch adds to the residual stream."""
        dropped: Tensor = self.dropout(branch)
        return dropped if self.scale == 1.0 else dropped * self.scale


class TransformerLM(nn.Module):
    """The language model.

    Args:
        config: its configuration.
    """

    frequencies: Tensor
    window_frequencies: Tensor
    sinusoid: Tensor

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        if config.position == "learned":
            self.embed_positions = nn.Embedding(config.context_length, config.d_model)
        elif config.position == "rope":
            self.register_buffer("frequencies", rotary_frequencies(config.rope, config.head_size), persistent=False)
            if config.window_rope is not None:
                own = rotary_frequencies(config.window_rope, config.head_size)
                self.register_buffer("window_frequencies", own, persistent=False)
        else:
            self.register_buffer("sinusoid", _sinusoid(config), persistent=False)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        has_norm = config.final_norm if config.final_norm is not None else config.norm_position != "post"
        self.norm: nn.Module = _norm(config) if has_norm else nn.Identity()
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=config.head_bias)
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
        bias = window_bias = None
        if past is not None or pad_length is not None or self.config.attention_soft_cap is not None:
            bias = _visibility_bias(index_S, keys, pad_length)
        if self.config.window is not None:
            window_bias = _visibility_bias(index_S, keys, pad_length, self.config.window)
        slots = None
        if past_length is not None and past is not None:
            shape = (input_ids.shape[0], self.config.kv_heads, s, self.config.head_size)
            slots = index_S.view(1, 1, -1, 1).expand(shape)
        x = self._embed(input_ids, position_BS)
        rotation, window_rotation = self._rotations(position_BS)
        present: list[KeyValue] = []
        for i, layer in enumerate(self.layers):
            cache = None if past is None else Cache(past[i][0], past[i][1], slots)
            in_window = self.config.has_window(i)
            turned = window_rotation if in_window else rotation
            if i in self.config.unrotated_layers:
                turned = None
            x, key_value = layer(x, turned, window_bias if in_window else bias, cache)
            present.append(key_value)
        kept = x if logits_to_keep is None else x.index_select(1, logits_to_keep)
        return LMOutput(self._logits(kept), present)

    def _embed(self, input_ids: Tensor, position_BS: Tensor) -> Tensor:
        x = self.embed_tokens(input_ids)
        if self.config.embedding_scale != 1.0:
            x = x * self.config.embedding_scale
        if self.config.position == "learned":
            x = x + self.embed_positions(position_BS)
        elif self.config.position == "sinusoidal":
            x = x + self.sinusoid[position_BS]
        dropped: Tensor = self.dropout(x)
        return dropped

    def _rotations(self, position_BS: Tensor) -> tuple[Rotation | None, Rotation | None]:
        """Make the rotary factors of the layers without a window, and of those with one."""
        config = self.config
        if config.position != "rope":
            return None, None
        rotation = rotation_at(config.rope, self.frequencies, position_BS)
        if config.window_rope is None:
            return rotation, rotation
        return rotation, rotation_at(config.window_rope, self.window_frequencies, position_BS)

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(self.norm(x))
        if self.config.logit_scale != 1.0:
            logits = logits * self.config.logit_scale
        return soft_cap(logits, self.config.logit_soft_cap)


def _visibility_bias(index_S: Tensor, keys: int, pad_length: Tensor | None, window: int | None = None) -> Tensor:
    """[B or 1, 1, S, T]: 0 where key j is visible to query i, -inf elsewhere.

    Visible: pad_length <= j <= i, of a window also i - window < j; and j == i always, so that a padding query never
    divides by zero.
    """
    j = torch.arange(keys, device=index_S.device).view(1, 1, 1, -1)
    i = index_S.view(1, 1, -1, 1)
    visible = j <= i
    if window is not None:
        visible = visible & (j > i - window)
    if pad_length is not None:
        visible = visible & (j >= pad_length.view(-1, 1, 1, 1)) | (j == i)
    return torch.where(visible, 0.0, -torch.inf)


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
