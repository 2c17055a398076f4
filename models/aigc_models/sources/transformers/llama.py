"""Llama and Mistral: norms before, rotary positions, gated feed-forward.

Covers Llama 2, 3, 3.1 and 3.2, TinyLlama, SmolLM and SmolLM2, Mistral 7B and what else has these forms.
References: Touvron et al. 2023, "Llama 2"; Jiang et al. 2023, "Mistral 7B", section 2 (sliding window).
"""

from __future__ import annotations

from typing import Any

from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.transformers.family import GATED, INVERSE_FREQUENCIES, LLAMA_DEFAULTS, Family, decoder
from aigc_models.sources.transformers.fields import Fields

__all__ = ["LLAMA", "MISTRAL"]

_MISTRAL: dict[str, Any] = {
    **LLAMA_DEFAULTS,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096 * 32,
}


def _llama(fields: Fields) -> LMConfig:
    bias = fields.flag("attention_bias", False)
    fields.require("rope_interleaved", False)
    return LMConfig(
        **decoder(fields, LLAMA_DEFAULTS),
        activation=fields.choice("hidden_act", "silu", GATED),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
    )


def _mistral(fields: Fields) -> LMConfig:
    return LMConfig(
        **decoder(fields, _MISTRAL),
        activation=fields.choice("hidden_act", "silu", GATED),
        window=fields.maybe_integer("sliding_window", 4096),
    )


LLAMA = Family(
    architecture="LlamaForCausalLM",
    base="LlamaModel",
    config=_llama,
    rules=INVERSE_FREQUENCIES,
    examples=("Llama 2 7B, 13B", "Llama 3 8B", "Llama 3.2 1B, 3B", "TinyLlama 1.1B", "SmolLM2 135M, 360M, 1.7B"),
)
MISTRAL = Family(
    architecture="MistralForCausalLM",
    base="MistralModel",
    config=_mistral,
    rules=INVERSE_FREQUENCIES,
    examples=("Mistral 7B v0.1, v0.3", "Mistral Nemo 12B"),
)
