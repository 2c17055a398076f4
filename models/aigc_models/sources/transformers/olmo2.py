"""OLMo 2: norms of what attention and feed-forward give, and of all queries and keys together.

Reference: OLMo Team 2024, "2 OLMo 2 Furious", section 3.
"""

from __future__ import annotations

from typing import Any

from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.transformers.family import GATED, LLAMA_DEFAULTS, Family, decoder
from aigc_models.sources.transformers.fields import Fields

__all__ = ["OLMO2"]

_OLMO2: dict[str, Any] = {**LLAMA_DEFAULTS, "vocab_size": 50304, "rms_norm_eps": 1e-5}


def _olmo2(fields: Fields) -> LMConfig:
    given, bias = decoder(fields, _OLMO2), fields.flag("attention_bias", False)
    return LMConfig(
        **given,
        norm_position="output",
        activation=fields.choice("hidden_act", "silu", GATED),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm="width",
    )


OLMO2 = Family(architecture="Olmo2ForCausalLM", base="Olmo2Model", config=_olmo2, examples=("OLMo 2 1B, 7B, 13B, 32B",))
