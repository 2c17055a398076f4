"""Phi-3, 3.5 and 4-mini: Llama's form with fused projections, LongRoPE, partly rotated heads.

Reference: Abdin et al. 2024, "Phi-3 Technical Report", section 2; Ding et al. 2024, "LongRoPE".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.transformers.family import GATED, INVERSE_FREQUENCIES, Family, decoder
from aigc_models.sources.transformers.fields import Fields
from aigc_models.sources.transformers.rename import Rule
from aigc_models.sources.transformers.rope_fields import Kind

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PHI3"]

_PHI3: dict[str, Any] = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "original_max_position_embeddings": 4096,
}
_SCALINGS: dict[str, Kind] = {"default": "none", "longrope": "longrope", "su": "longrope", "yarn": "longrope"}
"""Names of scalings, older ones among them, which all meant the same."""


def _phi3(fields: Fields) -> LMConfig:
    fields.require("attention_bias", False)
    fields.require("mlp_bias", False)
    fields.require("lm_head_bias", False)
    fields.require("interpolate_factor", 1)
    fields.require("full_attn_mod", 1)
    return LMConfig(
        **decoder(fields, _PHI3, part=True, kinds=_SCALINGS),
        activation=fields.choice("hidden_act", "silu", GATED),
        window=fields.maybe_integer("sliding_window"),
    )


def _projections(tensor: Tensor, config: LMConfig) -> Sequence[Tensor]:
    """[(H + 2 N) * E, D] -> queries, keys, values."""
    import torch

    sizes = [heads * config.head_size for heads in (config.n_heads, config.kv_heads, config.kv_heads)]
    return torch.split(tensor, sizes)


def _gate_and_up(tensor: Tensor, _config: LMConfig) -> Sequence[Tensor]:
    return tensor.chunk(2)


_RULES = (
    *INVERSE_FREQUENCIES,
    Rule(
        theirs="layers.*.self_attn.qkv_proj.weight",
        ours=tuple(f"layers.*.self_attn.{letter}_proj.weight" for letter in "qkv"),
        change=_projections,
    ),
    Rule(
        theirs="layers.*.mlp.gate_up_proj.weight",
        ours=("layers.*.mlp.gate_proj.weight", "layers.*.mlp.up_proj.weight"),
        change=_gate_and_up,
    ),
)

PHI3 = Family(
    architecture="Phi3ForCausalLM",
    base="Phi3Model",
    config=_phi3,
    rules=_RULES,
    examples=("Phi-3 mini 4k, 128k", "Phi-3 medium", "Phi-3.5 mini", "Phi-4", "Phi-4 mini"),
)
