"""Rotary positions are read in every form that transformers writes; their numbers are proven in test_rope.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.models.sources.transformers.small_models import LINEAR, LLAMA3, YARN

from aigc_models.families.rope import RopeConfig, attention_factor, rotary_frequencies
from aigc_models.sources.transformers.fields import Fields
from aigc_models.sources.transformers.rope_fields import KINDS, read_rope
from aigc_runtime.errors import AigcError

transformers: Any = pytest.importorskip("transformers")
rope_utils: Any = pytest.importorskip("transformers.modeling_rope_utils")

HEAD, CONTEXT = 16, 96


def rope(values: dict[str, Any], **more: Any) -> RopeConfig:
    fields = Fields(values)
    read = read_rope(fields, head_size=HEAD, context_length=CONTEXT, **more)
    fields.finish()
    return read


def theirs(values: dict[str, Any]) -> tuple[Any, float]:
    """transformers' own frequencies of the same fields."""
    given = {"hidden_size": 2 * HEAD, "num_attention_heads": 2, "max_position_embeddings": CONTEXT, **values}
    config = transformers.LlamaConfig(**json.loads(json.dumps(given)))
    frequencies, scale = rope_utils.ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config, None)
    return frequencies, scale


FORMS: list[dict[str, Any]] = [
    {"rope_theta": 500.0, "rope_scaling": LINEAR},
    {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 3}},
    {"rope_parameters": {**LINEAR, "rope_theta": 500.0}},
    {"rope_theta": 9.0, "rope_parameters": {**LLAMA3, "rope_theta": 500.0}},
    {"rope_theta": 500.0, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 24}},
    {"rope_theta": 500.0, "rope_scaling": LLAMA3, "original_max_position_embeddings": 24},
    {"rope_theta": 500.0, "rope_scaling": YARN},
    {"rope_theta": 500.0, "rope_scaling": {"type": "yarn", "factor": 4.0}},
    {"rope_theta": 500.0, "rope_scaling": {**YARN, "beta_fast": None, "beta_slow": 2.0}},
    {"rope_theta": 500.0, "rope_scaling": {**YARN, "attention_factor": 0.8}},
    {"rope_theta": 500.0, "rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2}},
    {"rope_theta": 500.0, "rope_scaling": {**YARN, "mscale": 0.7}},
    {"rope_theta": 500.0, "rope_scaling": {**YARN, "factor": 1.0, "mscale": 0.7, "mscale_all_dim": 1.2}},
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("values", FORMS, ids=str)
def test_every_form_means_what_transformers_takes_it_for(values: dict[str, Any]) -> None:
    read = rope(values)
    frequencies, scale = theirs(values)
    assert float((rotary_frequencies(read, HEAD) / frequencies - 1).abs().max()) < 1e-6
    assert attention_factor(read) == pytest.approx(scale, rel=1e-12)


def test_the_same_scaling_may_stand_under_both_names() -> None:
    assert rope({"rope_scaling": LINEAR, "rope_parameters": LINEAR}) == rope({"rope_scaling": LINEAR})


def test_no_scaling() -> None:
    assert rope({}) == RopeConfig()
    assert rope({"rope_scaling": None, "rope_theta": 500}) == RopeConfig(theta=500.0)
    assert rope({"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}) == RopeConfig(theta=500.0)
    assert rope({"partial_rotary_factor": 0.5}, part=1.0) == RopeConfig(rotary_size=HEAD // 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'\nmust be one of default"),
        ({"rope_scaling": {"type": "longrope"}}, "type is 'longrope'\nmust be one of default, linear, llama3, yarn"),
        ({"rope_scaling": {**YARN, "truncate": False}}, "truncate is False, which is not supported"),
        ({"rope_scaling": {**LINEAR, "beta_slow": 1.0}}, "rope_scaling: the field 'beta_slow' is 1.0"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "the first must be below the second"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": None}}, "low_freq_factor is None"),
        ({"rope_scaling": {**LINEAR, "factor": 0}}, "RopeConfig.factor is 0.0"),
        ({"rope_scaling": {**LINEAR, "factor": "2"}}, "factor is '2'\nmust be a number"),
        ({"rope_scaling": {**YARN, "original_max_position_embeddings": 0}}, "original_max_position_embeddings is 0"),
        ({"rope_scaling": YARN, "rope_theta": 1.0}, "RopeConfig.theta is 1.0\nyarn takes its logarithm"),
        ({"rope_theta": 0}, "RopeConfig.theta is 0.0"),
        ({"rope_scaling": [LINEAR]}, "must be an object"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, which is not supported"),
        ({"rope_scaling": {**LINEAR, "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5, which is not"),
    ],
)
def test_what_is_not_computed_is_refused(values: dict[str, Any], message: str) -> None:
    assert "dynamic" not in KINDS
    with pytest.raises(AigcError, match=message):
        rope(values)
