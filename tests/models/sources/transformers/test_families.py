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
