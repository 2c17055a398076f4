"""Llama and Mistral, as they are published."""

from __future__ import annotations

from typing import Any

import pytest
from tests.models.sources.transformers.published import check_published, config_of, published

from aigc_models.families.rope import RopeConfig
from aigc_models.sources.transformers.families import read_config
from aigc_runtime.errors import CheckpointError

LLAMA3: dict[str, Any] = {"theta": 500000.0, "scaling": "llama3", "original_context": 8192}
SMOL = {"context_length": 8192, "vocab_size": 49152, "tie_embeddings": True}
FACTS: dict[str, dict[str, Any]] = {
    "Llama-2-7b-hf": {"parameters": 6_738_415_616, "context_length": 4096, "n_kv_heads": None, "rope": RopeConfig()},
    "Llama-3.1-8B-Instruct": {
        "parameters": 8_030_261_248,
        "context_length": 131072,
        "n_kv_heads": 8,
        "rope": RopeConfig(**LLAMA3, factor=8.0),
    },
    "Llama-3.2-1B": {
        "parameters": 1_235_814_400,
        "head_size": 64,
        "tie_embeddings": True,
        "rope": RopeConfig(**LLAMA3, factor=32.0),
    },
    "TinyLlama-1.1B-Chat-v1.0": {"parameters": 1_100_048_384, "n_kv_heads": 4, "tie_embeddings": False},
    "SmolLM2-135M": {"parameters": 134_515_008, "rope": RopeConfig(theta=100000.0), **SMOL},
    "SmolLM2-360M-Instruct": {"parameters": 361_821_120, "n_heads": 15, "n_kv_heads": 5, **SMOL},
    "SmolLM2-1.7B-Instruct": {"parameters": 1_711_376_384, "rope": RopeConfig(theta=130000.0), **SMOL},
    "Mistral-7B-v0.1": {"parameters": 7_241_732_096, "window": 4096, "window_layers": None, "n_kv_heads": 8},
    "Mistral-7B-v0.3": {"parameters": 7_248_023_552, "window": None, "rope": RopeConfig(theta=1e6)},
    "Mistral-Nemo-Base-2407": {"parameters": 12_247_782_400, "window": None, "head_size": 128},
}


@pytest.mark.parametrize("name", FACTS)
def test_published_models_are_read_as_transformers_reads_them(name: str) -> None:
    check_published(name, **FACTS[name])


def test_all_of_them_are_tested() -> None:
    assert {*published("llama"), *published("mistral")} == set(FACTS)


@pytest.mark.parametrize("change", [{"parameters": 1}, {"parameters": 6_738_415_616, "context_length": 2048}])
def test_the_check_can_fail(change: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        check_published("Llama-2-7b-hf", **change)


def test_mistral_has_a_window_unless_it_is_null() -> None:
    values = config_of("Mistral-7B-v0.1")
    del values["sliding_window"]
    assert read_config(values).window == 4096  # transformers' default
    assert read_config({**values, "sliding_window": None}).window is None


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("Llama-2-7b-hf", {"rope_interleaved": True}, "rope_interleaved is True, which is not supported"),
        ("Llama-2-7b-hf", {"hidden_act": "quick_gelu"}, "hidden_act is 'quick_gelu'\nmust be one of silu"),
        ("Llama-2-7b-hf", {"sliding_window": 4096}, "the field 'sliding_window' is 4096"),
        ("Mistral-7B-v0.1", {"layer_types": ["full_attention"] * 32}, "the field 'layer_types' is"),
        ("Mistral-7B-v0.1", {"attention_bias": True}, "the field 'attention_bias' is True"),
    ],
)
def test_what_is_not_computed_is_refused(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_config({**config_of(name), **change})
