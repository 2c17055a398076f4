"""GPT-2, as it is published."""

from __future__ import annotations

from typing import Any

import pytest
from tests.models.sources.transformers.published import check_published, config_of, published

from aigc_models.sources.transformers.families import read_config
from aigc_runtime.errors import CheckpointError

SHARED: dict[str, Any] = {
    "context_length": 1024,
    "vocab_size": 50257,
    "position": "learned",
    "norm": "layernorm",
    "activation": "gelu_tanh",
    "tie_embeddings": True,
}
FACTS: dict[str, dict[str, Any]] = {
    "distilgpt2": {"parameters": 81_912_576, "n_layers": 6, "d_ff": 3072, **SHARED},
    "gpt2": {"parameters": 124_439_808, "n_layers": 12, "n_heads": 12, **SHARED},
    "gpt2-medium": {"parameters": 354_823_168, "d_model": 1024, **SHARED},
    "gpt2-xl": {"parameters": 1_557_611_200, "d_model": 1600, "n_heads": 25, **SHARED},
}


@pytest.mark.parametrize("name", FACTS)
def test_published_models_are_read_as_transformers_reads_them(name: str) -> None:
    check_published(name, **FACTS[name])


def test_all_of_them_are_tested() -> None:
    assert set(published("gpt2")) == set(FACTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True, which is not supported"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, which is not supported"),
        ({"add_cross_attention": True}, "add_cross_attention is True, which is not supported"),
        (
            {"n_embed": 1024},
            "the field 'n_embed' is 1024, and what it means is not known here\nnearest known: 'n_embd'",
        ),
        ({"activation_function": "mish"}, "activation_function is 'mish'"),
        ({"n_layer": 10**9}, "n_layer is 1000000000\nmust be a whole number from 1 to 1,024"),
    ],
)
def test_what_is_not_computed_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_config({**config_of("gpt2"), **change})
