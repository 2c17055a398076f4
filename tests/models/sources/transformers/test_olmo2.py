"""OLMo 2, as it is published."""

from __future__ import annotations

from typing import Any

import pytest
from tests.models.sources.transformers.published import check_published, config_of, published

from aigc_models.families.rope import RopeConfig
from aigc_models.sources.transformers.families import read_config
from aigc_runtime.errors import CheckpointError

SHARED: dict[str, Any] = {
    "norm_position": "output",
    "qk_norm": "width",
    "context_length": 4096,
    "rope": RopeConfig(theta=5e5),
    "norm_eps": 1e-6,
    "vocab_size": 100352,
}
FACTS: dict[str, dict[str, Any]] = {
    "OLMo-2-0425-1B": {"parameters": 1_484_916_736, "n_kv_heads": None, **SHARED},
    "OLMo-2-1124-7B": {"parameters": 7_298_617_344, "n_layers": 32, **SHARED},
    "OLMo-2-0325-32B": {"parameters": 32_234_279_936, "n_kv_heads": 8, **SHARED},
}


@pytest.mark.parametrize("name", FACTS)
def test_published_models_are_read_as_transformers_reads_them(name: str) -> None:
    check_published(name, **FACTS[name])


def test_all_of_them_are_tested() -> None:
    assert set(published("olmo2")) == set(FACTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_qkv": 8.0}, "the field 'clip_qkv' is 8.0"),
        ({"rms_norm_eps": None}, "rms_norm_eps is None\nmust be a number"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6'\nmust be a number"),
    ],
)
def test_what_is_not_computed_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_config({**config_of("OLMo-2-0425-1B"), **change})
