"""Granite 3: Llama's form with multipliers of embeddings, scores, residuals and logits.

Reference: Granite Team 2024, "Granite 3.0 Language Models", section 2; Yang et al. 2022, "Tensor Programs V".
"""

from __future__ import annotations

from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.transformers.family import GATED, LLAMA_DEFAULTS, Family, decoder
from aigc_models.sources.transformers.fields import Fields

__all__ = ["GRANITE"]


def _granite(fields: Fields) -> LMConfig:
    given, bias = decoder(fields, LLAMA_DEFAULTS), fields.flag("attention_bias", False)
    return LMConfig(
        **given,
        activation=fields.choice("hidden_act", "silu", GATED),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
        attention_scale=fields.number("attention_multiplier", 1.0),
        embedding_scale=fields.number("embedding_multiplier", 1.0),
        residual_scale=fields.number("residual_multiplier", 1.0),
        logit_scale=1.0 / fields.positive("logits_scaling", 1.0),
    )


GRANITE = Family(
    architecture="GraniteForCausalLM", base="GraniteModel", config=_granite, examples=("Granite 3.x 2B, 8B",)
)
