"""Every family computes what transformers computes with the same weights, and writes the same text."""

from __future__ import annotations

from typing import Any

import pytest
from tests.models.sources.transformers.evidence import (
    PAGE,
    ROW,
    evidence_of,
    family_evidence,
    models_of,
    positions_of,
)
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
    their_text,
    token_ids,
)

from aigc_models.sources.transformers.families import FAMILIES

ACCURACY = 1e-5
"""Of the reference's scale."""


def test_every_family_has_a_small_model_and_every_text_crosses_what_it_must() -> None:
    assert set(SMALL) == set(FAMILIES)
    assert WINDOW < min(ORIGINAL, len(PROMPTS[0])) < ORIGINAL < len(PROMPTS[1]) + NEW_TOKENS < CONTEXT


@pytest.mark.parametrize("name", [*SMALL, *SCALED])
def test_logits_and_text_are_those_of_transformers(name: str) -> None:
    found = evidence_of(name)
    assert found.error < ACCURACY
    assert found.margin > 4 * found.error  # no token is a tie
    assert found.equal == found.tokens >= len(PROMPTS) * NEW_TOKENS
    assert min(len(set(row)) for row in text_of(name).tokens) > 5


@pytest.mark.parametrize("family", list(SMALL))
def test_a_row_of_a_batch_is_as_if_it_were_alone(family: str) -> None:
    texts = [their_text(pair_of(family).theirs, [prompt]).tokens[0] for prompt in PROMPTS]
    assert texts == text_of(family).tokens


def test_the_page_says_what_was_measured() -> None:
    rows = {row[1]: row for row in ROW.finditer(PAGE.read_text(encoding="utf-8"))}
    assert list(rows) == list(FAMILIES)
    for family, row in rows.items():
        found = family_evidence(family)
        assert (row[2], row[3]) == (models_of(family), positions_of(family))
        # Rounding is another on another processor.
        assert found.error / 4 < float(row[4]) < ACCURACY
        assert (row[5], row[6]) == (f"{found.equal:,}", f"{found.tokens:,}")
        assert 0 < float(row[7]) < 10


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
