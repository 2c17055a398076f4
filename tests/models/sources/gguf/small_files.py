"""Small GGUF files, written by the package `gguf` from random models of transformers.

Names of tensors are those of the package's own table; what is done to their numbers is what llama.cpp's converter does,
by its description: rows of queries and keys ordered in pairs, gains of Gemma's norms with their one, one projection cut
by heads of GPT-NeoX, transposed weights of GPT-2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

gguf = pytest.importorskip("gguf")

ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "smollm3": "smollm3",
    "granite": "granite",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "olmo2": "olmo2",
    "gpt2": "gpt2",
    "gpt_neox": "gptneox",
}
"""transformers' `model_type` -> the format's architecture."""
PAIRS = ("llama", "smollm3", "granite")
"""Whose rows of queries and keys are in pairs."""


def pairs(tensor: Tensor, heads: int) -> Tensor:
    """Rows (first halves, second halves) of a head -> neighbors."""
    size = tensor.shape[0] // heads
    order = [half * (size // 2) + i for i in range(size // 2) for half in (0, 1)]
    return torch.cat([tensor[head * size : (head + 1) * size][order] for head in range(heads)])


def _changed(config: Any, kind: str, name: str, tensor: Tensor) -> Tensor:
    if kind in PAIRS and ".q_proj." in name:
        return pairs(tensor, config.num_attention_heads)
    if kind in PAIRS and ".k_proj." in name:
        return pairs(tensor, config.num_key_value_heads)
    if kind.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    if kind == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
        return tensor.t()
    if kind == "gpt_neox" and ".query_key_value." in name:
        size = config.hidden_size // config.num_attention_heads
        cut = tensor.reshape(config.num_attention_heads, 3, size, *tensor.shape[1:])
        return torch.cat([cut[:, part].flatten(0, 1) for part in range(3)])
    return tensor


def _sizes(config: Any, kind: str) -> Iterator[tuple[str, Any]]:
    yield "context_length", config.max_position_embeddings
    yield "embedding_length", config.hidden_size
    yield "block_count", config.num_hidden_layers
    yield "attention.head_count", config.num_attention_heads
    if kind == "gpt2":
        yield "feed_forward_length", 4 * config.hidden_size
        yield "attention.layer_norm_epsilon", config.layer_norm_epsilon
        return
    yield "feed_forward_length", config.intermediate_size
    if kind == "gpt_neox":
        yield "attention.layer_norm_epsilon", config.layer_norm_eps
        yield "use_parallel_residual", config.use_parallel_residual
        size = config.hidden_size // config.num_attention_heads
        yield "rope.dimension_count", int(config.rope_parameters["partial_rotary_factor"] * size)
        return
    yield "attention.head_count_kv", config.num_key_value_heads
    yield "attention.layer_norm_rms_epsilon", config.rms_norm_eps
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if size != config.hidden_size // config.num_attention_heads:
        yield "attention.key_length", size
        yield "attention.value_length", size
    rope = config.rope_parameters
    yield "rope.freq_base", rope.get("full_attention", rope)["rope_theta"]
    yield "rope.dimension_count", int(rope.get("partial_rotary_factor", 1.0) * size)
    if "sliding_attention" in rope:
        yield "rope.freq_base_swa", rope["sliding_attention"]["rope_theta"]
    if kind in ("gemma2", "gemma3_text", "phi3"):
        yield "attention.sliding_window", config.sliding_window or 0
    if kind == "gemma2":
        yield "attn_logit_softcapping", config.attn_logit_softcapping
        yield "final_logit_softcapping", config.final_logit_softcapping
    if kind == "granite":
        yield "attention.scale", config.attention_multiplier
        yield "embedding_scale", config.embedding_multiplier
        yield "residual_scale", config.residual_multiplier
        yield "logit_scale", config.logits_scaling


def add_value(writer: Any, key: str, value: Any) -> None:
    """Write one value by its type, floats as float32."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def write_model(
    path: Path,
    model: Any,
    *,
    kind: str,
    values: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray[Any, Any]] | None = None,
    quantize: Callable[[str, np.ndarray[Any, Any]], str] = lambda _name, _data: "F32",
) -> None:
    """Write a model of transformers.

    Args:
        path: of the file.
        model: of transformers.
        kind: its `model_type`.
        values: more of them, or others; None leaves one out.
        tensors: more of them.
        quantize: (name, numbers) -> name of the type.
    """
    config, architecture = model.config, ARCHITECTURES[kind]
    writer = gguf.GGUFWriter(path, architecture)
    own = {f"{architecture}.{key}": value for key, value in _sizes(config, kind)}
    for key, value in {**own, **(values or {})}.items():
        writer.kv_data[0].pop(key, None)  # the writer has set the architecture itself
        if value is not None:
            add_value(writer, key, value)
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found is not None, name
        numbers = _changed(config, kind, name, tensor).float().contiguous().numpy()
        number = gguf.GGMLQuantizationType[quantize(found, numbers)]
        writer.add_tensor(found, gguf.quants.quantize(numbers, number), raw_dtype=number)
    for name, data in (tensors or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
