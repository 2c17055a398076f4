"""Sequences of shapes that nobody thought of: the session says what numpy says, and gives everything back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_runtime.errors import FeedError

from .rig import ALIAS, UNET, Rig, leaks, lm, lm_feeds, unet_feeds
from .simulated_gpu import SimulatedGpu

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

batches = st.lists(st.integers(1, 8), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(batches=batches, rtx=st.booleans(), reuse=st.booleans())
def test_images(batches: list[int], rtx: bool, reuse: bool) -> None:
    rig, reference = Rig(UNET, rtx=rtx, gpu=SimulatedGpu(reuse_addresses=reuse)), UNET.reference()
    for seed, batch in enumerate(batches):
        feeds = unet_feeds(batch, seed)
        np.testing.assert_array_equal(rig.session.run(feeds)["model_output"], reference.run(feeds)["model_output"])
    rig.session.close()
    assert leaks(rig.gpu) == []


# A step runs `tokens` tokens on state number `state`, or makes that state anew with `rows` rows first.
steps = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 9), st.one_of(st.none(), st.integers(1, 3))), min_size=1, max_size=20
)
MODELS: list[tuple[str, dict[str, Any]]] = [("growing", {}), ("buffer", {}), ("buffer", {"alias": ALIAS})]


@settings(max_examples=80, deadline=None)
@given(model=st.sampled_from(MODELS), steps=steps, rtx=st.booleans(), reuse=st.booleans(), data=st.data())
def test_language_models(
    model: tuple[str, dict[str, Any]], steps: list[Any], rtx: bool, reuse: bool, data: Any
) -> None:
    kind, plan = model
    rig = Rig(lm(kind), rtx=rtx, gpu=SimulatedGpu(reuse_addresses=reuse), **plan)
    reference = lm(kind).reference()
    held: dict[int, tuple[Any, Any, int]] = {}
    for number, count, anew in steps:
        if anew is not None or number not in held:
            rows = anew or 1
            held[number] = (rig.session.new_state(rows), reference.new_state(rows), rows)
        state, expected, rows = held[number]
        feeds = lm_feeds(*data.draw(st.lists(st.lists(st.integers(0, 255), min_size=count, max_size=count),
                                             min_size=rows, max_size=rows)))  # fmt: skip
        try:
            want = reference.run(feeds, expected)["logits"]
        except FeedError as err:
            with pytest.raises(FeedError, match=err.message[:20]):
                rig.session.run(feeds, state)
            continue
        np.testing.assert_array_equal(rig.session.run(feeds, state)["logits"], want)
        assert state.length == expected.length
    rig.session.close()
    held.clear()
    del state
    assert leaks(rig.gpu) == []
