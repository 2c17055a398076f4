"""SmolLM3: Llama's form, in which every fourth layer sees no positions.

Reference: Yang et al. 2025, "Rope to Nope and Back Again", section 4.
"""

from __future__ import annotations

from typing import Any

from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.transformers.family import GATED, Family, decoder, window_layers
from aigc_models.sources.transformers.fields import Fields

__all__ = ["SMOLLM3"]

_SMOLLM3: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "rope_theta": 2000000.0,
}


def _smollm3(fields: Fields) -> LMConfig:
    given, bias = decoder(fields, _SMOLLM3), fields.flag("attention_bias", False)
    layers, interval = given["n_layers"], fields.integer("no_rope_layer_interval", 4)
    rotated = fields.list_of("no_rope_layers", (0, 1), length=layers)  # 1 where there are positions
    if rotated is None:
        rotated = tuple(int((layer + 1) % interval != 0) for layer in range(layers))
    used, window = fields.flag("use_sliding_window", False), fields.maybe_integer("sliding_window")
    windowed = window_layers(fields, layers, window if used else None, lambda layer: not rotated[layer])
    fields.skip("max_window_layers")  # of published files; transformers does not read it in this family
    if windowed:
        given |= {"window": window, "window_layers": windowed}
    return LMConfig(
        **given,
        activation=fields.choice("hidden_act", "silu", GATED),
        unrotated_layers=tuple(layer for layer in range(layers) if not rotated[layer]),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
    )


SMOLLM3 = Family(
    architecture="SmolLM3ForCausalLM", base="SmolLM3Model", config=_smollm3, examples=("SmolLM3 3B", "SmolLM3 3B Base")
)
