"""A family of models that transformers knows, as data; and what most of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aigc_models.families.lm_config import Activation, LMConfig
from aigc_models.sources.transformers.fields import Fields
from aigc_models.sources.transformers.rename import Rule
from aigc_models.sources.transformers.rope_fields import read_rope

__all__ = ["ACTIVATIONS", "GATED", "Family", "decoder", "window_layers"]

GATED: dict[str, Activation] = {
    "silu": "swiglu",
    "swish": "swiglu",
    "gelu": "geglu",
    "gelu_pytorch_tanh": "geglu_tanh",
    "gelu_new": "geglu_tanh",
    "relu": "reglu",
}
"""transformers' activation -> ours, where a gate multiplies."""
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""The same, where none does."""
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family.

    Attributes:
        architecture: the class of its language model.
        config: reads config.json.
        rules: names of tensors that are not ours without the prefix.
        prefix: in front of the names of all but the head.
        examples: models that were published in this form, of at least two sizes.
    """

    architecture: str
    config: Callable[[Fields], LMConfig]
    rules: tuple[Rule, ...] = ()
    prefix: str = "model."
    examples: tuple[str, ...] = ()


INVERSE_FREQUENCIES = (
    Rule(theirs="layers.*.self_attn.rotary_emb.inv_freq", ours=()),
    Rule(theirs="rotary_emb.inv_freq", ours=()),
)
"""Tensors that older folders hold, and that are computed."""


def decoder(fields: Fields, defaults: Mapping[str, Any], *, rope: bool = True) -> dict[str, Any]:
    """Read what the families of Llama's form share, as arguments of `LMConfig`.

    Args:
        fields: of config.json.
        defaults: of transformers' configuration class, by its names, for fields that the file leaves out.
        rope: read the rotary parameters, too.
    """
    d_model, n_heads = fields.integer("hidden_size", defaults["hidden_size"]), _heads(fields, defaults)
    context_length = fields.integer("max_position_embeddings", defaults["max_position_embeddings"])
    head_dim = fields.maybe_integer("head_dim", defaults.get("head_dim"))
    given: dict[str, Any] = {
        "vocab_size": fields.integer("vocab_size", defaults["vocab_size"]),
        "context_length": context_length,
        "d_model": d_model,
        "n_layers": fields.integer("num_hidden_layers", defaults["num_hidden_layers"]),
        "n_heads": n_heads,
        "n_kv_heads": fields.maybe_integer("num_key_value_heads", defaults.get("num_key_value_heads")),
        "head_dim": head_dim,
        "d_ff": fields.integer("intermediate_size", defaults["intermediate_size"]),
        "norm_eps": fields.number("rms_norm_eps", defaults["rms_norm_eps"]),
        "tie_embeddings": fields.flag("tie_word_embeddings", defaults["tie_word_embeddings"]),
    }
    if rope:
        given["rope"] = read_rope(
            fields,
            head_size=head_dim or d_model // n_heads,
            context_length=context_length,
            theta=defaults.get("rope_theta", 10000.0),
        )
    return given


def _heads(fields: Fields, defaults: Mapping[str, Any]) -> int:
    return fields.integer("num_attention_heads", defaults["num_attention_heads"])


def window_layers(fields: Fields, layers: int, default: Callable[[int], bool]) -> tuple[int, ...]:
    """Read which layers see a window: of `layer_types`, or by default those of which `default(number)` is true."""
    types = fields.list_of("layer_types", (FULL, SLIDING), length=layers)
    if types is None:
        return tuple(layer for layer in range(layers) if default(layer))
    return tuple(layer for layer, kind in enumerate(types) if kind == SLIDING)
