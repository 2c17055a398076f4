"""Carried state takes the form that a target wants: in buffers where it was left open, fixed where need be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aigc_models.carried_form import fixed_capacity, in_buffers
from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.program import Program, QuantHints
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
        np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-5)


def test_what_has_none_stays_as_it_is() -> None:
    growing = lm_program(TransformerLM(LM).eval(), cache="growing")
    assert fixed_capacity(growing) is growing
    assert in_buffers(growing) is growing


@pytest.mark.parametrize("separate_prefill", [False, True])
def test_a_form_that_was_left_open_grows_and_may_be_in_buffers(separate_prefill: bool) -> None:
    program = lm_program(TransformerLM(LM).eval(), separate_prefill=separate_prefill)
    other = in_buffers(program)
    assert {spec.kind for part in program.parts.values() for spec in part.interface.state} == {"growing"}
    assert {spec.kind for part in other.parts.values() for spec in part.interface.state} == {"buffer"}
    assert other.parts.keys() == program.parts.keys()
    assert other.module_sha256 == program.module_sha256
    weights = [next(part.module.parameters()) for one in (program, other) for part in one.parts.values()]
    assert all(weight is weights[0] for weight in weights)


def test_parts_that_were_replaced_keep_their_form() -> None:
    program = lm_program(TransformerLM(LM).eval())
    other = lm_program(TransformerLM(LM).eval())
    hinted = replace(program.part, hints=QuantHints(sensitive=("lm_head",)))
    bounded = replace(program.part, interface=replace(program.part.interface, outputs=other.part.interface.outputs[:1]))
    for part in (other.part, hinted):
        changed = replace(program, parts={"model": part})
        assert in_buffers(changed) is changed
    assert in_buffers(replace(program, parts={"model": bounded})).part is program.buffered["model"]


def test_a_dimension_without_an_end_is_refused(buffered: Program) -> None:
    interface = buffered.part.interface
    free = interface.with_dims([*interface.dims[:-1], DimSpec(name="capacity")])
    program = replace(buffered, parts={"model": replace(buffered.part, interface=free)})
    with pytest.raises(ConfigError, match=r"'capacity' places.*\nthis target needs a number: declare DimSpec"):
        fixed_capacity(program)
