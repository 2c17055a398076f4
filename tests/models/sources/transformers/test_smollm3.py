"""SmolLM3, as it is published: in one size, before and after it was taught to chat."""

from __future__ import annotations

from typing import Any

import pytest
from tests.models.sources.transformers.published import check_published, config_of, published

from aigc_models.families.rope import RopeConfig
from aigc_models.sources.transformers.families import read_config
from aigc_runtime.errors import CheckpointError

FACTS: dict[str, Any] = {
    "parameters": 3_075_098_624,
    "unrotated_layers": tuple(range(3, 36, 4)),
    "n_kv_heads": 4,
    "context_length": 65536,
    "tie_embeddings": True,
    "rope": RopeConfig(theta=5e6),
    "window": None,
}


@pytest.mark.parametrize("name", ["SmolLM3-3B", "SmolLM3-3B-Base"])
def test_published_models_are_read_as_transformers_reads_them(name: str) -> None:
    check_published(name, **FACTS)


def test_all_of_them_are_tested() -> None:
    assert set(published("smollm3")) == {"SmolLM3-3B", "SmolLM3-3B-Base"}


def test_layers_without_positions_are_listed_or_come_at_an_interval() -> None:
    values = {**config_of("SmolLM3-3B"), "no_rope_layers": None, "no_rope_layer_interval": 12}
    assert read_config(values).unrotated_layers == (11, 23, 35)
    assert read_config({**values, "no_rope_layers": [1] * 36}).unrotated_layers == ()


def test_a_window_is_that_of_the_layers_without_positions() -> None:
    values = {**config_of("SmolLM3-3B"), "use_sliding_window": True, "sliding_window": 64}
    del values["layer_types"]
    assert read_config(values).window_layers == tuple(range(3, 36, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"no_rope_layers": [1, 1, 1, 2] * 9}, "must be a list of 36 of 0, 1"),
        ({"no_rope_layers": [True] * 36}, "must be a list of 36 of 0, 1"),
        ({"no_rope_layers": [1] * 35}, "must be a list of 36 of 0, 1"),
        ({"no_rope_layer_interval": 0}, "no_rope_layer_interval is 0"),
        ({"layer_types": ["sliding_attention"] * 36}, "sliding_window is null or not in use"),
    ],
)
def test_what_is_not_computed_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_config({**config_of("SmolLM3-3B"), **change})
