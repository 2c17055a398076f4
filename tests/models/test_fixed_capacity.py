"""Buffers of a capacity that a session would choose get the largest, for engines that cannot enlarge them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.fixed_capacity import fixed_capacity
from aigc_models.program import Program
from aigc_models.programs import lm_program
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.tensors import DimSpec
from aigc_runtime.errors import ConfigError

LM = LMConfig(vocab_size=256, context_length=24, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24)


@pytest.fixture(scope="module")
def buffered() -> Program:
    """A language model with a buffered cache."""
    return lm_program(TransformerLM(LM).eval(), cache="buffer")


def test_the_largest_that_the_dimension_allows(buffered: Program) -> None:
    fixed = fixed_capacity(buffered).part.interface
    assert {spec.shape for spec in buffered.part.interface.state} == {("batch", 2, "capacity", 4)}
    assert {spec.shape for spec in fixed.state} == {("batch", 2, 24, 4)}
    assert [dim.name for dim in fixed.dims] == ["batch", "kept", "sequence"]
    assert (fixed.capacity_dim, fixed.max_steps) == (None, 24)


def test_both_compute_the_same(buffered: Program) -> None:
    rng = np.random.default_rng(0)
    sessions = [TorchSession(program.part) for program in (buffered, fixed_capacity(buffered))]
    states = [session.new_state(2) for session in sessions]
    for steps in (3, 1, 4, 1):
        feeds = {
            "input_ids": rng.integers(0, 256, size=(2, steps)),
            "pad_length": np.array([0, 1]),
            "logits_to_keep": np.arange(steps),
        }
        found = [session.run(feeds, state)["logits"] for session, state in zip(sessions, states, strict=True)]
        np.testing.assert_allclose(*found, rtol=0, atol=1e-5)


def test_what_has_none_stays_as_it_is() -> None:
    growing = lm_program(TransformerLM(LM).eval())
    assert fixed_capacity(growing) is growing


def test_a_dimension_without_an_end_is_refused(buffered: Program) -> None:
    interface = buffered.part.interface
    free = interface.with_dims([*interface.dims[:-1], DimSpec(name="capacity")])
    program = replace(buffered, parts={"model": replace(buffered.part, interface=free)})
    with pytest.raises(ConfigError, match=r"'capacity' places.*\nthis target needs a number: declare DimSpec"):
        fixed_capacity(program)
