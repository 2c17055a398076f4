"""Every family computes what transformers computes with the same weights."""

from __future__ import annotations

import pytest
import torch
from tests.models.sources.transformers.small_models import SMALL, VOCABULARY, InMemory, config_json, small_model

from aigc_models.sources.transformers.families import FAMILIES
from aigc_models.sources.transformers.weights import load_model

ACCURACY = 1e-5
"""Of the reference's scale."""


def test_every_family_has_a_small_model() -> None:
    assert set(SMALL) == set(FAMILIES)


@torch.no_grad()
@pytest.mark.parametrize("family", list(SMALL))
def test_logits_are_those_of_transformers(family: str) -> None:
    theirs = small_model(family)
    ours, _ = load_model(config_json(theirs), InMemory(theirs.state_dict()), source="memory")
    ids = torch.randint(VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(0))
    expected = theirs(ids).logits
    assert float((ours(ids).logits - expected).abs().max()) < ACCURACY * float(expected.abs().max())
