"""Gemma 2 and Gemma 3 (text): norms on both sides of each branch, soft caps, local and global layers.

References: Gemma Team 2024, "Gemma 2", section 2; Gemma Team 2025, "Gemma 3 Technical Report", section 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.transformers.family import FULL, GATED, SLIDING, Family, decoder, head_size, window_layers
from aigc_models.sources.transformers.fields import Fields
from aigc_models.sources.transformers.rename import Rule, plus_one
from aigc_models.sources.transformers.rope_fields import rope_of
from aigc_runtime.errors import CheckpointError

__all__ = ["GEMMA2", "GEMMA3"]

_GEMMA2: dict[str, Any] = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
_GEMMA3: dict[str, Any] = {**_GEMMA2, "vocab_size": 262208, "max_position_embeddings": 131072}


def _shared(fields: Fields, given: Mapping[str, Any]) -> dict[str, Any]:
    bias = fields.flag("attention_bias", False)
    fields.require("use_bidirectional_attention", False)
    fields.skip("hidden_act", "cache_implementation")  # `hidden_activation` is what counts
    return {
        "norm_position": "sandwich",
        "activation": fields.choice("hidden_activation", "gelu_pytorch_tanh", GATED),
        "qkv_bias": bias,
        "out_bias": bias,
        "attention_scale": fields.positive("query_pre_attn_scalar", 256) ** -0.5,
        "embedding_scale": math.sqrt(given["d_model"]),
        "window": fields.integer("sliding_window", 4096),
    }


def _gemma2(fields: Fields) -> LMConfig:
    given = decoder(fields, _GEMMA2)
    shared = _shared(fields, given)
    windowed = window_layers(fields, given["n_layers"], shared["window"], lambda layer: layer % 2 == 0)
    fields.skip("sliding_window_size")  # an older name of `sliding_window`, which stands beside it
    return LMConfig(
        **given,
        **shared,
        window_layers=windowed,
        attention_soft_cap=fields.maybe_number("attn_logit_softcapping", 50.0),
        logit_soft_cap=fields.maybe_number("final_logit_softcapping", 30.0),
    )


def _gemma3(fields: Fields) -> LMConfig:
    given, pattern = decoder(fields, _GEMMA3, rope=False), fields.integer("sliding_window_pattern", 6)
    shared = _shared(fields, given)
    fields.require("attn_logit_softcapping", False)  # transformers passes over it in this family
    windowed = window_layers(fields, given["n_layers"], shared["window"], lambda layer: (layer + 1) % pattern != 0)
    both, scaling = fields.inner("rope_parameters"), fields.inner("rope_scaling")
    if both is not None and scaling is not None:
        raise CheckpointError(
            "config.json: it has rope_parameters and rope_scaling, and only one of them can count",
            hint="remove rope_scaling, an older name",
        )
    shape = {
        "head_size": head_size(given["d_model"], given["n_heads"], given["head_dim"]),
        "context_length": given["context_length"],
    }
    rope = rope_of(
        scaling if both is None else both.inner(FULL), theta=fields.number("rope_theta", 1_000_000.0), **shape
    )
    local = rope_of(
        None if both is None else both.inner(SLIDING), theta=fields.number("rope_local_base_freq", 10_000.0), **shape
    )
    if both is not None:
        both.finish()
    return LMConfig(
        **given,
        **shared,
        rope=rope,
        window_layers=windowed,
        window_rope=local,
        logit_soft_cap=fields.maybe_number("final_logit_softcapping"),
        qk_norm="head",
    )


_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
    "self_attn.q_norm",
    "self_attn.k_norm",
)
_RULES = (
    Rule(theirs="norm.weight", ours=("norm.weight",), change=plus_one),
    *(Rule(theirs=f"layers.*.{norm}.weight", ours=(f"layers.*.{norm}.weight",), change=plus_one) for norm in _NORMS),
)

GEMMA2 = Family(
    architecture="Gemma2ForCausalLM",
    base="Gemma2Model",
    config=_gemma2,
    rules=_RULES,
    examples=("Gemma 2 2B, 9B, 27B",),
)
GEMMA3 = Family(
    architecture="Gemma3ForCausalLM",
    base="Gemma3TextModel",
    config=_gemma3,
    rules=_RULES,
    examples=("Gemma 3 270M, 1B",),
)
