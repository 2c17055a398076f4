"""Granite 3, as it is published."""

from __future__ import annotations

from typing import Any

import pytest
from tests.models.sources.transformers.published import check_published, config_of, published

from aigc_models.families.rope import RopeConfig
from aigc_models.sources.transformers.families import read_config
from aigc_runtime.errors import AigcError

SHARED: dict[str, Any] = {"embedding_scale": 12.0, "residual_scale": 0.22, "tie_embeddings": True}
FACTS: dict[str, dict[str, Any]] = {
    "granite-3.0-2b-base": {"parameters": 2_533_525_504, "logit_scale": 1 / 8, "context_length": 4096, **SHARED},
    "granite-3.1-2b-instruct": {"parameters": 2_533_531_648, "attention_scale": 1 / 64, **SHARED},
    "granite-3.3-8b-instruct": {"parameters": 8_170_864_640, "rope": RopeConfig(theta=1e7), **SHARED},
}


@pytest.mark.parametrize("name", FACTS)
def test_published_models_are_read_as_transformers_reads_them(name: str) -> None:
    check_published(name, **FACTS[name])


def test_all_of_them_are_tested() -> None:
    assert set(published("granite")) == set(FACTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits_scaling": 0}, "logits_scaling is 0"),
        ({"logits_scaling": float("nan")}, "logits_scaling is nan"),
        ({"attention_multiplier": 0.0}, "LMConfig.attention_scale is 0.0"),
        ({"residual_multiplier": 10**400}, "residual_multiplier is an integer of 401 digits"),
        ({"embedding_multiplyer": 2.0}, "the field 'embedding_multiplyer' is 2.0"),
    ],
)
def test_what_is_not_computed_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AigcError, match=message):
        read_config({**config_of("granite-3.1-2b-instruct"), **change})
