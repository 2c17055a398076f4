"""Gemma 2 and 3, as they are published."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.models.sources.transformers.published import check_published, config_of, published

from aigc_models.families.rope import RopeConfig
from aigc_models.sources.transformers.families import read_config
from aigc_runtime.errors import CheckpointError

GEMMA2: dict[str, Any] = {"attention_soft_cap": 50.0, "logit_soft_cap": 30.0, "window": 4096, "context_length": 8192}
GEMMA3: dict[str, Any] = {
    "attention_soft_cap": None,
    "logit_soft_cap": None,
    "window": 512,
    "qk_norm": "head",
    "rope": RopeConfig(theta=1e6),
    "window_rope": RopeConfig(theta=1e4),
    "attention_scale": 1 / 16,
}
FACTS: dict[str, dict[str, Any]] = {
    "gemma-2-2b": {"parameters": 2_614_341_888, "window_layers": tuple(range(0, 26, 2)), **GEMMA2},
    "gemma-2-9b": {"parameters": 9_241_705_984, "embedding_scale": math.sqrt(3584), **GEMMA2},
    "gemma-2-27b": {"parameters": 27_227_128_320, "attention_scale": 1 / 12, **GEMMA2},
    "gemma-3-270m": {
        "parameters": 268_098_176,
        "window_layers": tuple(layer for layer in range(18) if layer % 6 != 5),
        **GEMMA3,
    },
    "gemma-3-1b-it": {
        "parameters": 999_885_952,
        "window_layers": tuple(layer for layer in range(26) if layer % 6 != 5),
        **GEMMA3,
    },
}


@pytest.mark.parametrize("name", FACTS)
def test_published_models_are_read_as_transformers_reads_them(name: str) -> None:
    check_published(name, **FACTS[name])


def test_all_of_them_are_tested() -> None:
    assert {*published("gemma2"), *published("gemma3_text")} == set(FACTS)


def test_the_scaling_of_an_older_file_is_that_of_the_layers_that_see_all() -> None:
    values = {**config_of("gemma-3-1b-it"), "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    read = read_config(values)
    assert read.rope == RopeConfig(theta=1e6, scaling="linear", factor=8.0)
    assert read.window_rope == RopeConfig(theta=1e4)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gemma-2-2b", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True, which is not"),
        ("gemma-2-2b", {"sliding_window": None}, "sliding_window is None"),
        ("gemma-2-2b", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
        ("gemma-2-2b", {"hidden_activation": None}, "hidden_activation is None"),
        ("gemma-2-2b", {"head_dim": None}, "head_dim is None"),
        ("gemma-3-1b-it", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True, which is not"),
        ("gemma-3-1b-it", {"head_dim": None}, "head_dim is None"),
        ("gemma-3-1b-it", {"rope_parameters": {"rope_theta": 10000.0}}, "rope_parameters: the field 'rope_theta'"),
        ("gemma-3-1b-it", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
        (
            "gemma-3-1b-it",
            {
                "rope_parameters": {"full_attention": {"rope_type": "default"}},
                "rope_scaling": {"rope_type": "linear", "factor": 2.0},
            },
            "it has rope_parameters and rope_scaling",
        ),
    ],
)
def test_what_is_not_computed_is_refused(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_config({**config_of(name), **change})
