"""GPT-NeoX and Pythia, as they are published."""

from __future__ import annotations

from typing import Any

import pytest
from tests.models.sources.transformers.published import check_published, config_of, published

from aigc_models.families.rope import RopeConfig
from aigc_models.sources.transformers.families import read_config
from aigc_runtime.errors import CheckpointError

SHARED: dict[str, Any] = {"parallel": True, "context_length": 2048, "norm": "layernorm", "tie_embeddings": False}
FACTS: dict[str, dict[str, Any]] = {
    "pythia-70m": {"parameters": 70_426_624, "rope": RopeConfig(rotary_size=16), **SHARED},
    "pythia-410m": {"parameters": 405_334_016, "activation": "gelu", **SHARED},
    "pythia-1b": {"parameters": 1_011_781_632, "rope": RopeConfig(rotary_size=64), **SHARED},
    "gpt-neox-20b": {"parameters": 20_554_567_680, "activation": "gelu_tanh", **SHARED},
}


@pytest.mark.parametrize("name", FACTS)
def test_published_models_are_read_as_transformers_reads_them(name: str) -> None:
    check_published(name, **FACTS[name])


def test_all_of_them_are_tested() -> None:
    assert set(published("gpt_neox")) == set(FACTS)


def test_blocks_may_be_in_a_row() -> None:
    assert not read_config({**config_of("pythia-70m"), "use_parallel_residual": False}).parallel


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # transformers reads these two under other names in this family, and passes over them.
        ({"rope_theta": 5000.0}, "rope_theta is 5000.0, which is not supported\nsupported: 10000.0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, which is not supported\nsupported: 0.25"),
        ({"rotary_pct": 0.0}, "partial_rotary_factor is 0.0 of heads of 64"),
        ({"num_attention_heads": 7}, "hidden_size is 512, num_attention_heads 7\nthe first must be a multiple"),
        ({"hidden_act": "gelu_new2"}, "hidden_act is 'gelu_new2'"),
    ],
)
def test_what_is_not_computed_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_config({**config_of("pythia-70m"), **change})
