"""GPT-NeoX and Pythia: attention and feed-forward in parallel, rotary positions on a quarter of each head.

References: Black et al. 2022, "GPT-NeoX-20B", section 2.1; Biderman et al. 2023, "Pythia", section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aigc_models.families.layers import MAX_DEPTH
from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.transformers.family import ACTIVATIONS, Family, head_size
from aigc_models.sources.transformers.fields import Fields
from aigc_models.sources.transformers.rename import Rule
from aigc_models.sources.transformers.rope_fields import rope_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GPT_NEOX"]


def _gpt_neox(fields: Fields) -> LMConfig:
    width, heads = fields.integer("hidden_size", 6144), fields.integer("num_attention_heads", 64)
    context, bias = fields.integer("max_position_embeddings", 2048), fields.flag("attention_bias", True)
    theta, part = fields.number("rotary_emb_base", 10000.0), fields.number("rotary_pct", 0.25)
    # transformers does not read these names in this family: elsewhere than in `rope_parameters` they may only agree.
    fields.require("rope_theta", theta)
    fields.require("partial_rotary_factor", part)
    rope = rope_of(
        fields.either("rope_scaling", "rope_parameters"),
        theta=theta,
        part=part,
        head_size=head_size(width, heads),
        context_length=context,
    )
    return LMConfig(
        vocab_size=fields.integer("vocab_size", 50432),
        context_length=context,
        d_model=width,
        n_layers=fields.integer("num_hidden_layers", 44, high=MAX_DEPTH),
        n_heads=heads,
        d_ff=fields.integer("intermediate_size", 24576),
        norm="layernorm",
        norm_eps=fields.number("layer_norm_eps", 1e-5),
        activation=fields.choice("hidden_act", "gelu", ACTIVATIONS),
        rope=rope,
        parallel=fields.flag("use_parallel_residual", True),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=True,
        tie_embeddings=fields.flag("tie_word_embeddings", False),
    )


def _by_head(tensor: Tensor, config: LMConfig) -> Sequence[Tensor]:
    """[H * 3 * E, ...] -> queries, keys and values [H * E, ...]: each head's three lie together."""
    import torch

    parts = torch.unflatten(tensor, 0, (config.n_heads, 3, config.head_size))
    return [part.flatten(0, 1) for part in parts.unbind(1)]


def _attention(part: str) -> tuple[str, ...]:
    return tuple(f"layers.*.self_attn.{letter}_proj.{part}" for letter in "qkv")


_LAYER = {
    "attention.dense": "self_attn.o_proj",
    "mlp.dense_h_to_4h": "mlp.up_proj",
    "mlp.dense_4h_to_h": "mlp.down_proj",
}
_RULES = (
    Rule(theirs="embed_in.weight", ours=("embed_tokens.weight",)),
    Rule(theirs="embed_out.weight", ours=("lm_head.weight",)),
    Rule(theirs="final_layer_norm.weight", ours=("norm.weight",)),
    Rule(theirs="final_layer_norm.bias", ours=("norm.bias",)),
    Rule(theirs="layers.*.attention.bias", ours=()),  # the causal mask
    Rule(theirs="layers.*.attention.masked_bias", ours=()),
    Rule(theirs="layers.*.attention.rotary_emb.inv_freq", ours=()),
    Rule(theirs="rotary_emb.inv_freq", ours=()),
    Rule(theirs="layers.*.attention.query_key_value.weight", ours=_attention("weight"), change=_by_head),
    Rule(theirs="layers.*.attention.query_key_value.bias", ours=_attention("bias"), change=_by_head),
    *(
        Rule(theirs=f"layers.*.{theirs}.{part}", ours=(f"layers.*.{ours}.{part}",))
        for theirs, ours in _LAYER.items()
        for part in ("weight", "bias")
    ),
)

GPT_NEOX = Family(
    architecture="GPTNeoXForCausalLM",
    base="GPTNeoXModel",
    config=_gpt_neox,
    rules=_RULES,
    prefix="gpt_neox.",
    examples=("Pythia 70M, 160M, 410M, 1B, 1.4B, 2.8B", "GPT-NeoX 20B"),
)
