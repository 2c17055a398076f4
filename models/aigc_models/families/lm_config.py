"""The configuration of the language model: one set of fields spans the classic and the modern form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aigc_models.families.layers import config_from_dict, config_to_dict, require_one_of, require_positive
from aigc_runtime.errors import ConfigError

__all__ = ["ACTIVATIONS", "LMConfig"]

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "swiglu")


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
        norm_position: `pre` (x + f(norm(x))) or `post` (norm(x + f(x))).
        activation: `swiglu`, `gelu`, `gelu_tanh` or `relu`.
        position: `rope`, `learned` or `sinusoidal`.
        rope_theta: base of the rotary frequencies.
        norm_eps: added to the variance.
        qkv_bias: biases of the query, key and value projections.
        out_bias: bias of the attention's output projection.
        mlp_bias: biases of the feed-forward layer.
        qk_norm: RMSNorm over each head of the queries and keys, before the rotation.
        tie_embeddings: the output layer is the token embedding.
        final_norm: a norm before the output layer; None means only for `pre`.
        scale_embedding: multiply token embeddings by sqrt(D) (Vaswani 2017, section 3.4).
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
    norm_position: Literal["pre", "post"] = "pre"
    activation: Literal["swiglu", "gelu", "gelu_tanh", "relu"] = "swiglu"
    position: Literal["rope", "learned", "sinusoidal"] = "rope"
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = False
    final_norm: bool | None = None
    scale_embedding: bool = False
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
        )
        require_one_of("LMConfig", "norm", self.norm, ("rmsnorm", "layernorm"))
        require_one_of("LMConfig", "norm_position", self.norm_position, ("pre", "post"))
        require_one_of("LMConfig", "activation", self.activation, ACTIVATIONS)
        require_one_of("LMConfig", "position", self.position, ("rope", "learned", "sinusoidal"))
        if self.n_heads % self.kv_heads:
            raise ConfigError(
                f"LMConfig.n_kv_heads is {self.kv_heads} with n_heads {self.n_heads}", hint="must divide n_heads"
            )
        if self.head_dim is None and self.d_model % self.n_heads:
            raise ConfigError(
                f"LMConfig.d_model is {self.d_model} with n_heads {self.n_heads}",
                hint="must be a multiple of n_heads, or set head_dim",
            )
        if self.position == "rope" and self.head_size % 2:
            raise ConfigError(f"LMConfig.head_dim is {self.head_size}", hint="rotary positions need an even head_dim")
        if self.position == "sinusoidal" and self.d_model % 2:
            raise ConfigError(f"LMConfig.d_model is {self.d_model}", hint="sinusoidal positions need an even d_model")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"LMConfig.dropout is {self.dropout}", hint="must be in [0, 1)")
        if not (math.isfinite(self.rope_theta) and self.rope_theta > 0 and self.norm_eps > 0):
            raise ConfigError(
                f"LMConfig.rope_theta is {self.rope_theta}, norm_eps is {self.norm_eps}", hint="both must be positive"
            )

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads, N."""
        return self.n_kv_heads if self.n_kv_heads is not None else self.n_heads

    @property
    def head_size(self) -> int:
        """Size of a head, E."""
        return self.head_dim if self.head_dim is not None else self.d_model // self.n_heads

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return config_to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LMConfig:
        """Read plain JSON; raises ConfigError on an unknown or missing field."""
        return config_from_dict(cls, values)
