"""Every family computes what transformers computes with the same weights, and writes the same text."""

from __future__ import annotations

from typing import Any

import pytest
from tests.models.sources.transformers.small_models import (
    CONTEXT,
    NEW_TOKENS,
    ORIGINAL,
    PROMPTS,
    SCALED,
    SMALL,
    WINDOW,
    logits_error,
    our_text,
    pair_of,
    text_of,
    token_ids,
)

from aigc_models.sources.transformers.families import FAMILIES

ACCURACY = 1e-5
"""Of the reference's scale."""
CACHES: tuple[Any, ...] = ("growing", "buffer")


def test_every_family_has_a_small_model_and_every_text_crosses_what_it_must() -> None:
    assert set(SMALL) == set(FAMILIES)
    assert WINDOW < min(ORIGINAL, len(PROMPTS[0])) < ORIGINAL < len(PROMPTS[1]) + NEW_TOKENS < CONTEXT


@pytest.mark.parametrize("name", [*SMALL, *SCALED])
def test_logits_are_those_of_transformers(name: str) -> None:
    pair = pair_of(name)
    error = logits_error(pair.ours, pair.theirs, token_ids())
    assert error < ACCURACY
    assert text_of(name).margin > 4 * error  # no token is a tie
    assert logits_error(pair.ours, pair.theirs, token_ids(1, 5)) < ACCURACY


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("family", list(SMALL))
def test_text_is_that_of_transformers(family: str, cache: Any) -> None:
    expected = text_of(family)
    assert min(len(set(row)) for row in expected.tokens) > 5
    assert our_text(pair_of(family).ours, cache) == expected.tokens
    (alone,) = our_text(pair_of(family).ours, cache, PROMPTS[:1])
    assert alone == expected.tokens[0]


@pytest.mark.parametrize("name", list(SCALED))
def test_text_beyond_the_original_context_is_that_of_transformers(name: str) -> None:
    cache = CACHES[list(SCALED).index(name) % 2]
    assert our_text(pair_of(name).ours, cache) == text_of(name).tokens


DEFAULT = {"rope_type": "default"}
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"rope_parameters": {**DEFAULT, "rope_theta": 9000.0}}),
    ("llama", {"rms_norm_eps": 0.1}),
    ("llama", {"hidden_act": "gelu"}),
    ("mistral", {"sliding_window": WINDOW - 1}),
    ("mistral", {"sliding_window": WINDOW + 1}),
    ("mistral", {"sliding_window": None}),
    ("qwen2", {"sliding_window": WINDOW + 1}),
    ("qwen2", {"layer_types": ["sliding_attention", "full_attention"]}),
    ("qwen3", {"rope_parameters": {**DEFAULT, "rope_theta": 9000.0}}),
    ("qwen3", {"rms_norm_eps": 0.1}),
    ("smollm3", {"no_rope_layers": [1, 1]}),
    ("smollm3", {"no_rope_layers": [0, 1]}),
    ("gpt2", {"activation_function": "gelu"}),
    ("gpt2", {"layer_norm_epsilon": 0.1}),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("gpt_neox", {"rope_parameters": {**DEFAULT, "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}),
    ("phi3", {"sliding_window": WINDOW - 1}),
    ("gemma2", {"attn_logit_softcapping": None}),
    ("gemma2", {"final_logit_softcapping": None}),
    ("gemma2", {"query_pre_attn_scalar": 16}),
    ("gemma2", {"sliding_window": WINDOW - 1}),
    ("gemma3_text", {"layer_types": ["full_attention", "sliding_attention"]}),
    ("gemma3_text", {"sliding_window": WINDOW + 1}),
    ("olmo2", {"rms_norm_eps": 0.1}),
    ("granite", {"attention_multiplier": 8**-0.5}),
    ("granite", {"embedding_multiplier": 1.0}),
    ("granite", {"residual_multiplier": 1.0}),
    ("granite", {"logits_scaling": 1.0}),
]
NO_OTHER_TEXT = ({"final_logit_softcapping": None}, {"logits_scaling": 1.0}, {"activation_function": "gelu"})
"""Of these the order of the logits is the same; the last one differs from the right one by 0.0005 at most."""


@pytest.mark.parametrize(("family", "change"), WRONG, ids=str)
def test_the_comparison_sees_every_setting(family: str, change: dict[str, Any]) -> None:
    pair = pair_of(family)
    wrong = pair.changed(**change)
    assert logits_error(wrong, pair.theirs, token_ids()) > 10 * ACCURACY
    assert (our_text(wrong, "growing") == text_of(family).tokens) == (change in NO_OTHER_TEXT)


@pytest.mark.parametrize("name", list(SCALED))
def test_the_comparison_sees_every_scaling(name: str) -> None:
    pair = pair_of(name)
    longer = pair.config["rope_parameters"]
    other = longer.get("full_attention", longer)
    changed = {"long_factor": other["long_factor"][::-1]} if "long_factor" in other else {"factor": other["factor"] + 1}
    other = {**other, **changed}
    wrong = pair.changed(rope_parameters={**longer, "full_attention": other} if "full_attention" in longer else other)
    assert logits_error(wrong, pair.theirs, token_ids()) > 10 * ACCURACY


def test_every_family_has_a_setting_that_is_seen() -> None:
    assert {family for family, _ in WRONG} == set(FAMILIES)
