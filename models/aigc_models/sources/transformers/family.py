"""A family of models that transformers knows, as data; and what most of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aigc_models.families.layers import MAX_DEPTH
from aigc_models.families.lm_config import Activation, LMConfig
from aigc_models.sources.transformers.fields import Fields
from aigc_models.sources.transformers.rename import Rule
from aigc_models.sources.transformers.rope_fields import KINDS, Kind, read_rope
from aigc_runtime.errors import CheckpointError

__all__ = ["ACTIVATIONS", "GATED", "LLAMA_DEFAULTS", "Family", "decoder", "head_size", "window_layers"]

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


LLAMA_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
"""What Llama's configuration class has where a file says nothing; those of several families began as copies of it."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family.

    Attributes:
        architecture: the class of its language model.
        base: the class of the same without its head, which may be saved where the head is the embedding.
        config: reads config.json.
        rules: names of tensors that are not ours without the prefix.
        prefix: in front of the names of all but the head.
        inputs_first: names of modules that keep [inputs, outputs], where others keep [outputs, inputs].
        examples: models that were published in this form, of at least two sizes.
    """

    architecture: str
    base: str
    config: Callable[[Fields], LMConfig]
    rules: tuple[Rule, ...] = ()
    prefix: str = "model."
    inputs_first: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


INVERSE_FREQUENCIES = (
    Rule(theirs="layers.*.self_attn.rotary_emb.inv_freq", ours=()),
    Rule(theirs="rotary_emb.inv_freq", ours=()),
)
"""Tensors that older folders hold, and that are computed."""


def decoder(
    fields: Fields,
    defaults: Mapping[str, Any],
    *,
    rope: bool = True,
    part: bool = False,
    kinds: Mapping[str, Kind] = KINDS,
) -> dict[str, Any]:
    """Read what the families of Llama's form share, as arguments of `LMConfig`.

    Args:
        fields: of config.json.
        defaults: of transformers' configuration class, by its names, for fields that the file leaves out.
        rope: read the rotary parameters, too.
        part: a part of each head may turn.
        kinds: names of scalings of the rotary positions -> ours.
    """
    d_model = fields.integer("hidden_size", defaults["hidden_size"])
    n_heads = fields.integer("num_attention_heads", defaults["num_attention_heads"])
    context_length = fields.integer("max_position_embeddings", defaults["max_position_embeddings"])
    head_dim = _maybe(fields, "head_dim", defaults)
    # Where it says null there are as many as of queries, whatever the default is.
    n_kv_heads = fields.maybe_integer("num_key_value_heads", defaults.get("num_key_value_heads"))
    size = head_size(d_model, n_heads, head_dim)
    given: dict[str, Any] = {
        "vocab_size": fields.integer("vocab_size", defaults["vocab_size"]),
        "context_length": context_length,
        "d_model": d_model,
        "n_layers": fields.integer("num_hidden_layers", defaults["num_hidden_layers"], high=MAX_DEPTH),
        "n_heads": n_heads,
        "n_kv_heads": None if n_kv_heads == n_heads else n_kv_heads,
        "head_dim": None if size * n_heads == d_model else size,
        "d_ff": fields.integer("intermediate_size", defaults["intermediate_size"]),
        "norm_eps": fields.number("rms_norm_eps", defaults["rms_norm_eps"]),
        "tie_embeddings": fields.flag("tie_word_embeddings", defaults["tie_word_embeddings"]),
    }
    if rope:
        given["rope"] = read_rope(
            fields,
            head_size=size,
            context_length=context_length,
            theta=defaults.get("rope_theta", 10000.0),
            part=1.0 if part else None,
            original=defaults.get("original_max_position_embeddings"),
            kinds=kinds,
        )
    return given


def _maybe(fields: Fields, name: str, defaults: Mapping[str, Any]) -> int | None:
    """Read a size that may be null where it has no number by default."""
    default = defaults.get(name)
    return fields.maybe_integer(name) if default is None else fields.integer(name, default)


def head_size(d_model: int, n_heads: int, head_dim: int | None = None) -> int:
    """Find how many numbers a head has.

    Raises:
        CheckpointError: `head_dim` does not say it, and the width cannot be shared out.
    """
    if head_dim is not None:
        return head_dim
    if d_model % n_heads:
        raise CheckpointError(
            f"config.json: hidden_size is {d_model}, num_attention_heads {n_heads}",
            hint="the first must be a multiple of the second, or head_dim must say how wide a head is",
        )
    return d_model // n_heads


def window_layers(fields: Fields, layers: int, window: int | None, default: Callable[[int], bool]) -> tuple[int, ...]:
    """Read which layers see a window: of `layer_types`, or by default those of which `default(number)` is true.

    Raises:
        CheckpointError: `layer_types` names such layers, and there is no window.
    """
    types = fields.list_of("layer_types", (FULL, SLIDING), length=layers)
    if types is None:
        return () if window is None else tuple(layer for layer in range(layers) if default(layer))
    if window is None and SLIDING in types:
        raise CheckpointError(
            f"config.json: layer_types has {SLIDING!r}, and sliding_window is null or not in use",
            hint=f"set sliding_window (and use_sliding_window, where there is one), or every layer to {FULL!r}",
        )
    return tuple(layer for layer, kind in enumerate(types) if kind == SLIDING)
