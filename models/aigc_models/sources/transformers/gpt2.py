"""GPT-2: learned positions, LayerNorm, biases everywhere, one projection for queries, keys and values.

Reference: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aigc_models.families.layers import MAX_DEPTH
from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.transformers.family import ACTIVATIONS, Family
from aigc_models.sources.transformers.fields import Fields
from aigc_models.sources.transformers.rename import Rule, transposed

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GPT2"]


def _gpt2(fields: Fields) -> LMConfig:
    width = fields.integer("n_embd", 768)
    fields.require("scale_attn_weights", True)
    fields.require("scale_attn_by_inverse_layer_idx", False)
    fields.require("add_cross_attention", False)
    fields.skip("n_ctx", "reorder_and_upcast_attn")  # the same sums in another order
    return LMConfig(
        vocab_size=fields.integer("vocab_size", 50257),
        context_length=fields.integer("n_positions", 1024),
        d_model=width,
        n_layers=fields.integer("n_layer", 12, high=MAX_DEPTH),
        n_heads=fields.integer("n_head", 12),
        d_ff=fields.maybe_integer("n_inner") or 4 * width,
        norm="layernorm",
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        activation=fields.choice("activation_function", "gelu_new", ACTIVATIONS),
        position="learned",
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        tie_embeddings=fields.flag("tie_word_embeddings", True),
    )


def _thirds(tensor: Tensor, _config: LMConfig) -> Sequence[Tensor]:
    return (tensor.t() if tensor.dim() == 2 else tensor).chunk(3)


def _attention(part: str) -> tuple[str, ...]:
    return tuple(f"layers.*.self_attn.{letter}_proj.{part}" for letter in "qkv")


_LAYER = {
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "attn.c_proj": "self_attn.o_proj",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}
_RULES = (
    Rule(theirs="wte.weight", ours=("embed_tokens.weight",)),
    Rule(theirs="wpe.weight", ours=("embed_positions.weight",)),
    Rule(theirs="ln_f.weight", ours=("norm.weight",)),
    Rule(theirs="ln_f.bias", ours=("norm.bias",)),
    Rule(theirs="h.*.attn.bias", ours=()),  # the causal mask
    Rule(theirs="h.*.attn.masked_bias", ours=()),
    Rule(theirs="h.*.attn.c_attn.weight", ours=_attention("weight"), change=_thirds),
    Rule(theirs="h.*.attn.c_attn.bias", ours=_attention("bias"), change=_thirds),
    *(
        Rule(
            theirs=f"h.*.{theirs}.{part}",
            ours=(f"layers.*.{ours}.{part}",),
            # A Conv1D keeps [inputs, outputs].
            change=transposed if part == "weight" and "ln" not in theirs else None,
        )
        for theirs, ours in _LAYER.items()
        for part in ("weight", "bias")
    ),
)

GPT2 = Family(
    architecture="GPT2LMHeadModel",
    base="GPT2Model",
    config=_gpt2,
    rules=_RULES,
    prefix="transformer.",
    inputs_first=("c_attn", "c_proj", "c_fc"),
    examples=("GPT-2 124M, 355M, 774M, 1.5B", "DistilGPT2 82M"),
)
