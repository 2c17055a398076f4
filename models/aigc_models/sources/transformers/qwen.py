"""Qwen 2, 2.5 and 3: Llama's form with biases of queries, keys and values, or with norms of queries and keys.

References: Yang et al. 2024, "Qwen2 Technical Report", section 2.2; Yang et al. 2025, "Qwen3 Technical Report",
section 2 (QK-Norm, no biases).
"""

from __future__ import annotations

from typing import Any

from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.transformers.family import GATED, Family, decoder, window_layers
from aigc_models.sources.transformers.fields import Fields

__all__ = ["QWEN2", "QWEN3"]

_QWEN2: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_QWEN3: dict[str, Any] = {**_QWEN2, "head_dim": 128}


def _windows(fields: Fields, layers: int) -> dict[str, Any]:
    """Windows of the layers from `max_window_layers` up, where they are used at all."""
    used, window = fields.flag("use_sliding_window", False), fields.maybe_integer("sliding_window", 4096)
    first = fields.integer("max_window_layers", 28, low=0)
    windowed = window_layers(fields, layers, window if used else None, lambda layer: layer >= first)
    return {"window": window, "window_layers": windowed} if windowed else {}


def _qwen2(fields: Fields) -> LMConfig:
    given = decoder(fields, _QWEN2)
    fields.require("use_mrope", False)
    return LMConfig(
        **given,
        **_windows(fields, given["n_layers"]),
        activation=fields.choice("hidden_act", "silu", GATED),
        qkv_bias=True,
    )


def _qwen3(fields: Fields) -> LMConfig:
    given, bias = decoder(fields, _QWEN3), fields.flag("attention_bias", False)
    return LMConfig(
        **given,
        **_windows(fields, given["n_layers"]),
        activation=fields.choice("hidden_act", "silu", GATED),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm="head",
    )


QWEN2 = Family(
    architecture="Qwen2ForCausalLM",
    base="Qwen2Model",
    config=_qwen2,
    examples=("Qwen2 0.5B, 7B", "Qwen2.5 0.5B, 1.5B, 3B, 7B"),
)
QWEN3 = Family(
    architecture="Qwen3ForCausalLM", base="Qwen3Model", config=_qwen3, examples=("Qwen3 0.6B, 1.7B, 4B, 8B",)
)
