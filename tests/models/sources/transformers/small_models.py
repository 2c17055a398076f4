"""Small random models of every family, made by transformers: the independent reference."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers")

VOCABULARY = 97
_SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FACTORS = [1.0, 1.5, 2.0, 3.0]
SMALL: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 7},
    "qwen2": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
    "qwen3": {"head_dim": 16},
    "smollm3": {},
    "gpt2": {"n_embd": 48, "n_layer": 4, "n_head": 6, "n_positions": 96},
    "gpt_neox": {"num_key_value_heads": None},
    "phi3": {},
    "gemma2": {"head_dim": 16, "sliding_window": 7, "query_pre_attn_scalar": 24},
    "gemma3_text": {
        "head_dim": 16,
        "sliding_window": 7,
        "query_pre_attn_scalar": 24,
        "sliding_window_pattern": 3,
    },
    "olmo2": {"num_key_value_heads": 6},
    "granite": {
        "attention_multiplier": 0.2,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.3,
        "logits_scaling": 4.0,
    },
}
"""Family -> what its small configuration has beside the shared sizes."""


class InMemory(dict[str, Tensor]):
    """Weights in memory, as a reader of weights."""

    def described(self) -> dict[str, Tensor]:
        return {name: tensor.to("meta") for name, tensor in self.items()}

    def stream(self, into: Callable[[str], Tensor | None] = lambda _: None) -> Iterator[tuple[str, Tensor]]:
        yield from self.items()


def small_config(family: str, **change: Any) -> Any:
    shared = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2} if family == "gpt2" else _SHARED
    given = {**shared, **SMALL[family], **change}
    return transformers.AutoConfig.for_model(family, **{k: v for k, v in given.items() if v is not None})


def small_model(family: str, *, seed: int = 0, **change: Any) -> Any:
    """A random model, its weights larger than at initialization, so that mistakes show."""
    torch.manual_seed(seed)
    config = small_config(family, **change)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def config_json(model: Any) -> dict[str, Any]:
    """The config.json that transformers would write."""
    found: dict[str, Any] = json.loads(model.config.to_json_string())
    return {**found, "architectures": [type(model).__name__]}
