"""A language model in one part becomes two over one state; any other program does not."""

from __future__ import annotations

import pytest

from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.program import Program
from aigc_models.programs import lm_program
from aigc_models.separate_prefill import CACHE, can_separate_prefill, with_separate_prefill
from aigc_models.sources.shipped import load_shipped

SIZES = LMConfig(vocab_size=256, context_length=32, d_model=16, n_layers=1, n_heads=2, d_ff=24)


def made(**options: object) -> Program:
    return lm_program(TransformerLM(SIZES).eval(), **options)  # type: ignore[arg-type]


def test_two_parts_over_one_module_and_one_state() -> None:
    one = made()
    assert can_separate_prefill(one)
    two = with_separate_prefill(one)
    assert two.engines == {"prefill": "prefill", "decode": "decode"}
    assert two.states == {"prefill": CACHE, "decode": CACHE}
    assert list(two.parts) == list(two.buffered) == ["prefill", "decode"]
    assert all(part.module is one.part.module and part.interface == one.part.interface for part in two.parts.values())
    assert two.parameters == one.parameters
    assert not can_separate_prefill(two)


def test_it_is_what_a_loader_makes_when_it_is_asked_to() -> None:
    model = TransformerLM(SIZES).eval()
    asked = lm_program(model, separate_prefill=True, cache="buffer")
    made_of_one = with_separate_prefill(lm_program(model, cache="buffer"))
    assert (asked.engines, asked.states) == (made_of_one.engines, made_of_one.states)
    assert [p.interface for p in asked.parts.values()] == [p.interface for p in made_of_one.parts.values()]


@pytest.mark.parametrize("name", ["gan", "unet"])
def test_others_cannot(name: str) -> None:
    assert not can_separate_prefill(load_shipped(name, checkpoint=None, options={}))
