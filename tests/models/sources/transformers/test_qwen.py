"""Qwen 2, 2.5 and 3, as they are published."""

from __future__ import annotations

from typing import Any

import pytest
from tests.models.sources.transformers.published import check_published, config_of, published

from aigc_models.families.rope import RopeConfig
from aigc_models.sources.transformers.families import read_config
from aigc_runtime.errors import CheckpointError

QWEN2: dict[str, Any] = {"qkv_bias": True, "out_bias": False, "qk_norm": "none", "window": None}
QWEN3: dict[str, Any] = {"qkv_bias": False, "qk_norm": "head", "head_size": 128, "window": None}
FACTS: dict[str, dict[str, Any]] = {
    "Qwen2-0.5B": {"parameters": 494_032_768, "tie_embeddings": True, "context_length": 131072, **QWEN2},
    "Qwen2-7B": {"parameters": 7_615_616_512, "tie_embeddings": False, "vocab_size": 152064, **QWEN2},
    "Qwen2.5-0.5B-Instruct": {"parameters": 494_032_768, "rope": RopeConfig(theta=1e6), **QWEN2},
    "Qwen2.5-3B": {"parameters": 3_085_938_688, "n_kv_heads": 2, "context_length": 32768, **QWEN2},
    "Qwen3-0.6B": {"parameters": 596_049_920, "d_model": 1024, "tie_embeddings": True, **QWEN3},
    "Qwen3-1.7B": {"parameters": 1_720_574_976, "d_model": 2048, "context_length": 40960, **QWEN3},
    "Qwen3-8B": {"parameters": 8_190_735_360, "tie_embeddings": False, **QWEN3},
}


@pytest.mark.parametrize("name", FACTS)
def test_published_models_are_read_as_transformers_reads_them(name: str) -> None:
    check_published(name, **FACTS[name])


def test_all_of_them_are_tested() -> None:
    assert {*published("qwen2"), *published("qwen3")} == set(FACTS)


def test_windows_begin_at_a_layer_where_they_are_used() -> None:
    values = {**config_of("Qwen2-0.5B"), "use_sliding_window": True, "max_window_layers": 21}
    read = read_config(values)
    assert (read.window, read.window_layers) == (131072, (21, 22, 23))
    assert read_config({**values, "sliding_window": None}).window is None
    assert read_config({**values, "max_window_layers": 24}).window is None
    kinds = ["sliding_attention", *["full_attention"] * 23]
    assert read_config({**values, "layer_types": kinds}).window_layers == (0,)


def test_yarn_as_the_model_card_tells_to_write_it() -> None:
    scaling = {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}
    read = read_config({**config_of("Qwen2-0.5B"), "rope_scaling": scaling})
    assert read.rope == RopeConfig(theta=1e6, scaling="yarn", factor=4.0, original_context=32768)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_mrope": True}, "use_mrope is True, which is not supported"),
        (
            {"layer_types": ["sliding_attention"] * 24},
            "layer_types has 'sliding_attention', and sliding_window is null or not in use",
        ),
        ({"layer_types": ["full_attention"] * 23}, "must be a list of 24 of full_attention, sliding_attention"),
        ({"layer_types": ["chunked_attention"] * 24}, "must be a list of 24 of full_attention, sliding_attention"),
        ({"max_window_layers": -1}, "max_window_layers is -1"),
        ({"use_sliding_window": 1}, "use_sliding_window is 1\nmust be true or false"),
        ({"num_experts": 8}, "the field 'num_experts' is 8"),
        ({"attention_bias": True}, "the field 'attention_bias' is True"),
    ],
)
def test_what_is_not_computed_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_config({**config_of("Qwen2-0.5B"), **change})
