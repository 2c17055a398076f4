"""The configuration of the language model: one set of fields spans the classic and the modern forms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aigc_models.families.layers import config_from_dict, config_to_dict, require_one_of, require_positive
from aigc_models.families.rope_config import RopeConfig
from aigc_runtime.errors import ConfigError

__all__ = ["ACTIVATIONS", "GATED", "Activation", "LMConfig"]

Activation = Literal["swiglu", "geglu", "geglu_tanh", "reglu", "gelu", "gelu_tanh", "relu", "silu"]
GATED = ("swiglu", "geglu", "geglu_tanh", "reglu")
"""Activations of a gate, which multiplies what is activated by a second projection."""
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", *GATED)


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """A language model's configuration.

    Attributes:
        vocab_size: V.
        context_length: most positions, prompt and generated together.
        d_model: D.
        n_layers: number of blocks.
        n_heads: H.
        d_ff: width of the feed-forward layer.
        n_kv_heads: N, a divisor of H; None means H (full multi-head attention).
        head_dim: E; None means D / H.
        norm: `rmsnorm` or `layernorm`.
        norm_position: `pre` (x + f(norm(x))), `post` (norm(x + f(x))), `output` (x + norm(f(x))) or `sandwich`
            (x + norm(f(norm(x)))).
        parallel: attention and feed-forward both read a block's input, each by its own norm (GPT-NeoX); of `pre` alone.
        activation: `gelu`, `gelu_tanh`, `relu`, `silu`, or gated: `swiglu`, `geglu`, `geglu_tanh`, `reglu`.
        position: `rope`, `learned` or `sinusoidal`.
        rope: how positions become angles.
        unrotated_layers: layers that see no positions.
        window: W: a token sees itself and the W - 1 before it; None: all before it.
        window_layers: layers with the window; None: all.
        window_rope: angles in the layers with the window; None: as in the others.
        norm_eps: added to the variance.
        qkv_bias: biases of the query, key and value projections.
        out_bias: bias of the attention's output projection.
        mlp_bias: biases of the feed-forward layer.
        head_bias: bias of the output layer.
        qk_norm: RMSNorm of the queries and keys before the rotation: over each `head`, over all of them (`width`), or
            `none`.
        attention_scale: multiplies the scores; None: E^-1/2.
        attention_soft_cap: c: scores become c tanh(score / c); None: they stay.
        logit_soft_cap: the same of the logits.
        embedding_scale: multiplies token embeddings, such as by sqrt(D) (Vaswani 2017, section 3.4).
        residual_scale: multiplies what a block adds.
        logit_scale: multiplies the logits.
        tie_embeddings: the output layer is the token embedding.
        final_norm: a norm before the output layer; None: there is one unless the position is `post`.
        dropout: on embeddings and residual branches, while training.
    """

    vocab_size: int
    context_length: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    n_kv_heads: int | None = None
    head_dim: int | None = None
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_position: Literal["pre", "post", "output", "sandwich"] = "pre"
    parallel: bool = False
    activation: Activation = "swiglu"
    position: Literal["rope", "learned", "sinusoidal"] = "rope"
    rope: RopeConfig = field(default_factory=RopeConfig)
    unrotated_layers: tuple[int, ...] = ()
    window: int | None = None
    window_layers: tuple[int, ...] | None = None
    window_rope: RopeConfig | None = None
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    qk_norm: Literal["none", "head", "width"] = "none"
    attention_scale: float | None = None
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    tie_embeddings: bool = False
    final_norm: bool | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_positive(
            "LMConfig",
            vocab_size=self.vocab_size,
            context_length=self.context_length,
            d_model=self.d_model,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_ff=self.d_ff,
            n_kv_heads=self.n_kv_heads,
            head_dim=self.head_dim,
            window=self.window,
        )
        require_one_of("LMConfig", "norm", self.norm, ("rmsnorm", "layernorm"))
        require_one_of("LMConfig", "norm_position", self.norm_position, ("pre", "post", "output", "sandwich"))
        require_one_of("LMConfig", "activation", self.activation, ACTIVATIONS)
        require_one_of("LMConfig", "position", self.position, ("rope", "learned", "sinusoidal"))
        require_one_of("LMConfig", "qk_norm", self.qk_norm, ("none", "head", "width"))
        self._check_heads()
        self._check_layers()
        self._check_numbers()
        if self.parallel and self.norm_position != "pre":
            raise ConfigError(
                f"LMConfig.parallel with norm_position {self.norm_position!r}", hint="only blocks of 'pre' are parallel"
            )
        if self.position == "sinusoidal" and self.d_model % 2:
            raise ConfigError(f"LMConfig.d_model is {self.d_model}", hint="sinusoidal positions need an even d_model")

    def _check_heads(self) -> None:
        if self.n_heads % self.kv_heads:
            raise ConfigError(
                f"LMConfig.n_kv_heads is {self.kv_heads} with n_heads {self.n_heads}", hint="must divide n_heads"
            )
        if self.head_dim is None and self.d_model % self.n_heads:
            raise ConfigError(
                f"LMConfig.d_model is {self.d_model} with n_heads {self.n_heads}",
                hint="must be a multiple of n_heads, or set head_dim",
            )
        for rope in (self.rope, self.window_rope):
            if rope is not None and self.position == "rope":
                rope.check_head(self.head_size)

    def _check_layers(self) -> None:
        for name, layers in (("window_layers", self.window_layers or ()), ("unrotated_layers", self.unrotated_layers)):
            wrong = [layer for layer in layers if not 0 <= layer < self.n_layers]
            if wrong or len(set(layers)) < len(layers):
                raise ConfigError(
                    f"LMConfig.{name} is {list(layers)} with {self.n_layers} layers",
                    hint=f"must be numbers of layers, from 0 to {self.n_layers - 1}, each once",
                )
        if self.window is None and (self.window_layers is not None or self.window_rope is not None):
            raise ConfigError("LMConfig.window_layers or window_rope is set, window is not", hint="set all or none")

    def _check_numbers(self) -> None:
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"LMConfig.dropout is {self.dropout}", hint="must be in [0, 1)")
        for name in ("norm_eps", "attention_scale", "attention_soft_cap", "logit_soft_cap"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"LMConfig.{name} is {value}", hint="must be positive")
        for name in ("embedding_scale", "residual_scale", "logit_scale"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"LMConfig.{name} is {getattr(self, name)}", hint="must be a finite number")

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads, N."""
        return self.n_kv_heads if self.n_kv_heads is not None else self.n_heads

    @property
    def head_size(self) -> int:
        """Size of a head, E."""
        return self.head_dim if self.head_dim is not None else self.d_model // self.n_heads

    def has_window(self, layer: int) -> bool:
        """Whether a layer sees a window of the text only."""
        return self.window is not None and (self.window_layers is None or layer in self.window_layers)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return config_to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LMConfig:
        """Read plain JSON; raises ConfigError on an unknown or missing field."""
        return config_from_dict(cls, values)
