"""The architectures of GGUF files that are known: each gives the config.json that transformers would have.

What llama.cpp's code knows of an architecture and the file does not say stands here: Gemma's windows and scales,
SmolLM3's layers without positions.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from aigc_models.sources.gguf.metadata import Metadata
from aigc_models.sources.gguf.names import DECODER, FUSED, GATE_AND_UP, NORMS_AFTER, PERMUTED, POSITIONS, SANDWICH
from aigc_models.sources.gguf.rope import rope_parameters
from aigc_models.sources.transformers.rename import Rule
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["ARCHITECTURES", "Architecture", "find_architecture", "read_config_json"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An architecture.

    Attributes:
        model_type: transformers' name of it.
        config: gives the fields of config.json beside `model_type`.
        rules: names of its tensors.
    """

    model_type: str
    config: Callable[[Metadata], dict[str, Any]]
    rules: tuple[Rule, ...]


def _sizes(meta: Metadata, *, plain_rope: bool = True) -> dict[str, Any]:
    """Read what Llama's form and its kin have."""
    fields = meta.fields
    width, heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    head = fields.maybe_integer("attention.key_length") or width // heads
    fields.require("attention.value_length", head)
    fields.require("attention.causal", True)
    fields.skip("tensor_data_layout")
    context = fields.integer("context_length")
    config: dict[str, Any] = {
        "vocab_size": meta.vocab_size,
        "hidden_size": width,
        "intermediate_size": fields.integer("feed_forward_length"),
        "num_hidden_layers": fields.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.maybe_integer("attention.head_count_kv") or heads,
        "max_position_embeddings": context,
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": meta.tied,
    }
    if head != width // heads:
        config["head_dim"] = head
    if plain_rope:
        config["rope_parameters"] = rope_parameters(meta, head_size=head, context=context)
    return config


def _biases(meta: Metadata) -> dict[str, Any]:
    return {"attention_bias": meta.has("blk.0.attn_q.bias"), "mlp_bias": meta.has("blk.0.ffn_up.bias")}


def _llama(meta: Metadata) -> dict[str, Any]:
    return {**_sizes(meta), **_biases(meta)}


def _qwen3(meta: Metadata) -> dict[str, Any]:
    config = _sizes(meta)
    return {"head_dim": config["hidden_size"] // config["num_attention_heads"], **config}


def _smollm3(meta: Metadata) -> dict[str, Any]:
    return {**_llama(meta), "no_rope_layer_interval": 4}


def _granite(meta: Metadata) -> dict[str, Any]:
    fields = meta.fields
    return {
        **_llama(meta),
        "attention_multiplier": fields.number("attention.scale", 1.0),
        "embedding_multiplier": fields.number("embedding_scale", 1.0),
        "residual_multiplier": fields.number("residual_scale", 1.0),
        "logits_scaling": fields.number("logit_scale", 1.0),
    }


def _phi3(meta: Metadata) -> dict[str, Any]:
    window = meta.fields.number("attention.sliding_window", 0)
    config = {**_sizes(meta), "sliding_window": int(window) or None}
    # transformers reads it here first.
    original = config["rope_parameters"].get("original_max_position_embeddings")
    return config if original is None else {**config, "original_max_position_embeddings": original}


def _gemma(meta: Metadata, *, period: int, of_width: int, plain_rope: bool) -> dict[str, Any]:
    """Read what Gemma 2 and 3 share.

    Args:
        meta: of the file.
        period: every `period`-th layer sees everything, where the file does not say.
        of_width: number of layers of the size whose scores are scaled by D / H, and not by E.
        plain_rope: all layers turn alike.
    """
    fields, config = meta.fields, _sizes(meta, plain_rope=plain_rope)
    layers, width, heads = config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim", width // heads)
    caps = {name: fields.maybe_number(name) for name in ("attn_logit_softcapping", "final_logit_softcapping")}
    return {
        **config,
        **{name: cap for name, cap in caps.items() if cap is not None},
        "head_dim": head,
        "query_pre_attn_scalar": width // heads if layers == of_width else head,
        "sliding_window": fields.integer("attention.sliding_window", 4096),
        "layer_types": ["sliding_attention" if windowed else "full_attention" for windowed in _windows(meta, period)],
    }


def _windows(meta: Metadata, period: int) -> list[bool]:
    """Whether each layer sees a window: as the file lists it, or all but every `period`-th."""
    key, layers = "attention.sliding_window_pattern", meta.fields.integer("block_count")
    if isinstance(meta.file.metadata.get(f"{meta.architecture}.{key}"), list):
        return list(meta.fields.list_of(key, (True, False), length=layers) or ())
    period = meta.fields.integer(key, period)
    return [(layer + 1) % period != 0 for layer in range(layers)]


def _gemma2(meta: Metadata) -> dict[str, Any]:
    return _gemma(meta, period=2, of_width=46, plain_rope=True)


def _gemma3(meta: Metadata) -> dict[str, Any]:
    config = _gemma(meta, period=6, of_width=62, plain_rope=False)
    shape = {"head_size": config["head_dim"], "context": config["max_position_embeddings"]}
    local = {"rope_type": "default", "rope_theta": meta.fields.number("rope.freq_base_swa", 10_000.0)}
    everywhere = rope_parameters(meta, **shape, theta=1_000_000.0)
    return {**config, "rope_parameters": {"full_attention": everywhere, "sliding_attention": local}}


def _gpt2(meta: Metadata) -> dict[str, Any]:
    fields = meta.fields
    heads = fields.integer("attention.head_count")
    fields.require("attention.head_count_kv", heads)
    return {
        "vocab_size": meta.vocab_size,
        "n_positions": fields.integer("context_length"),
        "n_embd": fields.integer("embedding_length"),
        "n_layer": fields.integer("block_count"),
        "n_head": heads,
        "n_inner": fields.integer("feed_forward_length"),
        "layer_norm_epsilon": fields.number("attention.layer_norm_epsilon"),
        "tie_word_embeddings": meta.tied,
    }


def _gpt_neox(meta: Metadata) -> dict[str, Any]:
    fields = meta.fields
    width, heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    fields.require("attention.head_count_kv", heads)
    context = fields.integer("context_length")
    return {
        "vocab_size": meta.vocab_size,
        "max_position_embeddings": context,
        "hidden_size": width,
        "num_hidden_layers": fields.integer("block_count"),
        "num_attention_heads": heads,
        "intermediate_size": fields.integer("feed_forward_length"),
        "layer_norm_eps": fields.number("attention.layer_norm_epsilon"),
        "use_parallel_residual": fields.flag("use_parallel_residual", True),
        "attention_bias": meta.has("blk.0.attn_qkv.bias"),
        "rope_parameters": rope_parameters(meta, head_size=width // heads, context=context),
        "tie_word_embeddings": meta.tied,
    }


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "llama": Architecture(model_type="llama", config=_llama, rules=PERMUTED),
        "qwen2": Architecture(model_type="qwen2", config=_sizes, rules=DECODER),
        "qwen3": Architecture(model_type="qwen3", config=_qwen3, rules=DECODER),
        "smollm3": Architecture(model_type="smollm3", config=_smollm3, rules=PERMUTED),
        "granite": Architecture(model_type="granite", config=_granite, rules=PERMUTED),
        "gemma2": Architecture(model_type="gemma2", config=_gemma2, rules=SANDWICH),
        "gemma3": Architecture(model_type="gemma3_text", config=_gemma3, rules=SANDWICH),
        "phi3": Architecture(model_type="phi3", config=_phi3, rules=(*FUSED, *GATE_AND_UP, *DECODER)),
        "olmo2": Architecture(model_type="olmo2", config=_sizes, rules=NORMS_AFTER),
        "gpt2": Architecture(model_type="gpt2", config=_gpt2, rules=(*FUSED, *POSITIONS, *DECODER)),
        "gptneox": Architecture(model_type="gpt_neox", config=_gpt_neox, rules=(*FUSED, *DECODER)),
    }
)
"""`general.architecture` -> architecture."""


def find_architecture(meta: Metadata) -> Architecture:
    """Find the architecture of a file.

    Raises:
        CheckpointError: one that is not known; lists those that are, and the nearest.
    """
    name = meta.architecture
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    near = difflib.get_close_matches(name, ARCHITECTURES, n=1, cutoff=0.5)
    raise CheckpointError(
        f"{str(meta.file.path)!r} is of the architecture {shown(name)}, which is not known",
        hint=f"known in GGUF files: {', '.join(ARCHITECTURES)}" + (f"; the nearest is {near[0]!r}" if near else ""),
    )


def read_config_json(meta: Metadata) -> dict[str, Any]:
    """Make the config.json that transformers would have of a file's model; every value must be known.

    Raises:
        CheckpointError: an architecture, a key or a value that is not supported; names it.
    """
    found = find_architecture(meta)
    config = {"model_type": found.model_type, **found.config(meta)}
    meta.fields.finish()
    return config
