"""Phi-3, 3.5, 4 and 4-mini, as they are published."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.models.sources.transformers.published import check_published, config_of, published
from tests.models.sources.transformers.small_models import ORIGINAL, PROMPTS, pair_of, text_of

from aigc_models.families.rope import RopeConfig
from aigc_models.programs import lm_program
from aigc_models.sources.transformers.families import read_config
from aigc_models.text_assets import NO_TEXT
from aigc_models.torch_session import open_torch
from aigc_runtime.errors import AigcError
from aigc_runtime.pipelines.text import TextPipeline

FACTS: dict[str, dict[str, Any]] = {
    "Phi-3-mini-4k-instruct": {"parameters": 3_821_079_552, "window": 2047, "rope": RopeConfig()},
    "Phi-3-mini-128k-instruct": {"parameters": 3_821_079_552, "context_length": 131072, "n_kv_heads": None},
    "Phi-3.5-mini-instruct": {"parameters": 3_821_079_552, "window": 262144, "vocab_size": 32064},
    "Phi-4-mini-instruct": {"parameters": 3_836_021_760, "n_kv_heads": 8, "tie_embeddings": True},
    "phi-4": {"parameters": 14_659_507_200, "window": None, "rope": RopeConfig(theta=250000.0)},
}


@pytest.mark.parametrize("name", FACTS)
def test_published_models_are_read_as_transformers_reads_them(name: str) -> None:
    check_published(name, **FACTS[name])


def test_all_of_them_are_tested() -> None:
    assert set(published("phi3")) == set(FACTS)


def test_a_long_context_is_that_of_its_factors() -> None:
    rope = read_config(config_of("Phi-4-mini-instruct")).rope
    assert (rope.scaling, rope.original_context, rope.factor, rope.rotary_size) == ("longrope", 4096, 32.0, 96)
    assert (rope.short_factors, rope.long_factors[-1]) == ((1.0,) * 48, 47.77)
    # Older files name the same scaling otherwise.
    assert read_config(config_of("Phi-3-mini-128k-instruct")).rope.scaling == "longrope"


def test_a_context_that_is_not_stated_is_transformers_own() -> None:
    values = config_of("Phi-3.5-mini-instruct")
    del values["original_max_position_embeddings"]
    assert read_config(values).rope.original_context == 4096


def test_a_text_that_crosses_the_original_context_is_read_again() -> None:
    program = lm_program(pair_of("phi3 with longrope").ours, text=NO_TEXT)
    assert program.settings.recompute_at == ORIGINAL
    expected = text_of("phi3 with longrope").tokens[0]
    for again in (ORIGINAL, None):
        pipeline = TextPipeline(open_torch(program), replace(program.settings, recompute_at=again))
        (found,) = pipeline.generate(PROMPTS[0], max_new_tokens=len(expected))
        same = [ours == theirs for ours, theirs in zip(found.token_ids.tolist(), expected, strict=True)]
        assert all(same[: ORIGINAL + 1 - len(PROMPTS[0])])
        assert all(same) == (again is not None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "type is 'linear'\nmust be one of default, longrope, su"),
        ({"lm_head_bias": True}, "lm_head_bias is True, which is not supported"),
        ({"attention_bias": True}, "attention_bias is True, which is not supported"),
        ({"full_attn_mod": 2}, "full_attn_mod is 2, which is not supported"),
        ({"partial_rotary_factor": 0.01}, "partial_rotary_factor is 0.01 of heads of 128"),
        (
            {"rope_scaling": {"type": "longrope", "long_factor": [1.0] * 48}},
            "RopeConfig has 0 short and 48 long factors with scaling 'longrope'",
        ),
        (
            {"rope_scaling": {"type": "longrope", "long_factor": [1.0] * 47, "short_factor": [1.0] * 47}},
            "RopeConfig.long_factors has 47 factors, expected 48",
        ),
        (
            {"rope_scaling": {"type": "longrope", "long_factor": [-1.0] * 48, "short_factor": [1.0] * 48}},
            "holds what is not positive",
        ),
        ({"original_max_position_embeddings": 1}, "RopeConfig.original_context is 1"),
    ],
)
def test_what_is_not_computed_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AigcError, match=message):
        read_config({**config_of("Phi-4-mini-instruct"), **change})
