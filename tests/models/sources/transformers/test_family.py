"""What families share when they read a config.json."""

from __future__ import annotations

from typing import Any

import pytest

from aigc_models.sources.transformers.family import decoder, head_size, window_layers
from aigc_models.sources.transformers.fields import Fields
from aigc_runtime.errors import CheckpointError

DEFAULTS: dict[str, Any] = {
    "vocab_size": 10,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}


def test_what_a_file_leaves_out_is_the_classs_own() -> None:
    read = decoder(Fields({}), DEFAULTS)
    assert (read["vocab_size"], read["d_model"], read["n_layers"], read["d_ff"]) == (10, 12, 3, 20)
    assert decoder(Fields({"vocab_size": 99}), DEFAULTS)["vocab_size"] == 99


def test_a_size_that_follows_from_others_is_left_out() -> None:
    told = decoder(Fields({"head_dim": 4, "num_key_value_heads": 3}), DEFAULTS)
    assert told == decoder(Fields({}), DEFAULTS)
    assert decoder(Fields({"head_dim": 6, "num_key_value_heads": 1}), DEFAULTS)["head_dim"] == 6


def test_a_null_is_refused_where_the_class_has_a_number() -> None:
    assert decoder(Fields({"head_dim": None}), DEFAULTS)["head_dim"] is None
    with pytest.raises(CheckpointError, match="head_dim is None"):
        decoder(Fields({"head_dim": None}), {**DEFAULTS, "head_dim": 8})


def test_a_width_is_shared_out_among_the_heads() -> None:
    assert head_size(12, 3) == 4
    assert head_size(12, 5, 6) == 6
    with pytest.raises(CheckpointError, match="hidden_size is 12, num_attention_heads 5\nthe first must be a multiple"):
        head_size(12, 5)


def test_layers_with_a_window_are_listed_or_follow_a_rule() -> None:
    def odd(layer: int) -> bool:
        return layer % 2 == 1

    kinds = ["sliding_attention", "full_attention", "full_attention"]
    assert window_layers(Fields({}), 3, 7, odd) == (1,)
    assert window_layers(Fields({}), 3, None, odd) == ()
    assert window_layers(Fields({"layer_types": kinds}), 3, 7, odd) == (0,)
    assert window_layers(Fields({"layer_types": kinds[1:] * 2}), 4, None, odd) == ()
    with pytest.raises(CheckpointError, match="sliding_window is null or not in use"):
        window_layers(Fields({"layer_types": kinds}), 3, None, odd)
