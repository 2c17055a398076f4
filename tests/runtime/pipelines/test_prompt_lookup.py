"""Prompt lookup: the same text in fewer runs, whatever the state, the options and the limits of an engine are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array, DimSpec
from aigc_runtime.errors import InputError
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.pipelines.prompt_lookup import followed
from aigc_runtime.pipelines.text import TextPipeline
from aigc_runtime.pipelines.text_engines import TextEngines
from aigc_runtime.pipelines.text_reading import Reading

from .. import mixed, toys

PERIOD = 7
PROMPT = "abcdefg" * 2 + "abc"


def cycle_function(values: Mapping[str, Array]) -> dict[str, Array]:
    """Behind each letter the next of seven, most likely; every other one may come."""
    found = toys.lm_function(values)
    following = 97 + (values["input_ids"] - 96) % PERIOD
    letters = np.arange(256)
    near = -np.minimum((letters - following[:, values["logits_to_keep"], None]) % 256, 4)
    return {**found, "logits": near.astype(np.float32)}


class Seen:
    """A language model that notes how many tokens each run reads, and of how many places it gives logits."""

    def __init__(
        self,
        kind: str = "growing",
        *,
        context: int = 64,
        function: Any = cycle_function,
        dims: Sequence[DimSpec] = (),
    ) -> None:
        self.runs: list[tuple[int, int]] = []
        interface = toys.lm_interface(kind, context)
        wide = [DimSpec(name=name, min=int(name != "past"), max=context) for name in ("sequence", "past", "kept")]
        chosen = {dim.name: dim for dim in (*wide, *dims)}
        interface = interface.with_dims([chosen.get(dim.name, dim) for dim in interface.dims])

        def run(values: Mapping[str, Array]) -> Mapping[str, Array]:
            self.runs.append((values["input_ids"].shape[1], len(values["logits_to_keep"])))
            found: Mapping[str, Array] = function(values)
            return found

        self.session = ArraySession(run, interface)

    def pipeline(self, **settings: Any) -> TextPipeline:
        return TextPipeline(self.session, replace(toys.TEXT, **{"context_length": 64, **settings}))


def letters(start: str, count: int) -> str:
    found = start
    for _ in range(count):
        found += chr(97 + (ord(found[-1]) - 96) % PERIOD)
    return found[len(start) :]


@pytest.mark.parametrize("kind", ["growing", "buffer", "elastic"])
def test_what_repeats_is_read_in_few_runs(kind: str) -> None:
    seen = Seen(kind)
    (found,) = seen.pipeline().generate(PROMPT, max_new_tokens=14, prompt_lookup_num_tokens=6)
    assert found.text == letters("c", 14)
    assert found.finish_reason == "length"
    # The last run reads no more than is asked for.
    assert seen.runs == [(17, 1), (7, 7), (6, 6)]


@pytest.mark.parametrize("kind", ["growing", "buffer", "elastic"])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_drawn_is_what_is_drawn_one_by_one(kind: str, seed: int) -> None:
    sampling = SamplingParams(temperature=0.6, top_k=20, repetition_penalty=1.1)
    options: dict[str, Any] = {"max_new_tokens": 40, "sampling": sampling, "seed": seed, "logprobs": 2}
    (plain,) = Seen(kind).pipeline().generate(PROMPT, **options)
    seen = Seen(kind)
    (found,) = seen.pipeline().generate(PROMPT, **options, prompt_lookup_num_tokens=5)
    assert found.token_ids.tolist() == plain.token_ids.tolist()
    assert found.logprobs is not None
    assert plain.logprobs is not None
    np.testing.assert_array_equal(found.logprobs.chosen, plain.logprobs.chosen)
    np.testing.assert_array_equal(found.logprobs.top_ids, plain.logprobs.top_ids)
    assert any(run > 1 for run, _ in seen.runs[1:])


def test_fewer_are_looked_up_after_wrong_ones_and_more_after_right_ones() -> None:
    """Every third letter is another one than the next, so that what followed before is wrong, until that repeats."""

    def jumping(values: Mapping[str, Array]) -> dict[str, Array]:
        found = cycle_function(values)
        places = values["past_value_0"].shape[2] + values["logits_to_keep"]
        jumps = (places >= len(PROMPT) - 1) & (places % 3 == 1)
        return {**found, "logits": np.where(jumps[:, None], np.roll(found["logits"], 2, axis=2), found["logits"])}

    seen = Seen(function=jumping, context=128)
    pipeline = TextPipeline(seen.session, replace(toys.TEXT, context_length=128))
    plain = TextPipeline(Seen(function=jumping, context=128).session, pipeline.settings)
    options: dict[str, Any] = {"max_new_tokens": 90}
    (found,) = pipeline.generate(PROMPT, **options, prompt_lookup_num_tokens=8)
    assert found.token_ids.tolist() == plain.generate(PROMPT, **options)[0].token_ids.tolist()
    looked_up = [run - 1 for run, _ in seen.runs[1:] if run > 1]
    fewest = looked_up.index(1)
    falling, rising = looked_up[:fewest], looked_up[fewest:-1]  # the last run reads what is left
    assert falling == sorted(falling, reverse=True)
    assert set(falling) == {8, 4, 2}
    assert rising == sorted(rising)
    assert set(rising) == {1, 2, 4, 8}
    assert len(seen.runs) < 30


def test_each_of_several_rows_is_as_alone() -> None:
    prompts = [PROMPT, "bcdbcdb", "a"]
    seen = Seen()
    found = seen.pipeline().generate(prompts, max_new_tokens=9, num_return_sequences=2, prompt_lookup_num_tokens=4)
    plain = Seen().pipeline().generate(prompts, max_new_tokens=9, num_return_sequences=2)
    assert [row.token_ids.tolist() for row in found] == [row.token_ids.tolist() for row in plain]


def test_an_engine_of_two_rows() -> None:
    seen = Seen(dims=[DimSpec(name="batch", min=2, max=2)])
    (found,) = seen.pipeline().generate(PROMPT, max_new_tokens=12, prompt_lookup_num_tokens=4)
    assert found.text == letters("c", 12)
    assert len(seen.runs) < 6


@pytest.mark.parametrize("most", [1, 2, 4])
def test_no_more_logits_than_an_engine_gives(most: int) -> None:
    seen = Seen(dims=[DimSpec(name="kept", max=most)])
    (found,) = seen.pipeline().generate(PROMPT, max_new_tokens=12, prompt_lookup_num_tokens=8)
    assert found.text == letters("c", 12)
    assert max(kept for _, kept in seen.runs) == most


@pytest.mark.parametrize("steps", [DimSpec(name="sequence", max=1), DimSpec(name="sequence", max=3)])
def test_an_engine_of_few_steps(steps: DimSpec) -> None:
    seen = Seen(dims=[steps])
    (found,) = seen.pipeline().generate(PROMPT, max_new_tokens=12, prompt_lookup_num_tokens=6)
    assert found.text == letters("c", 12)


@pytest.mark.parametrize("kind", ["growing", "buffer"])
def test_a_context_that_is_full(kind: str) -> None:
    seen = Seen(kind, context=24)
    pipeline = seen.pipeline(context_length=24)
    (found,) = pipeline.generate(PROMPT, max_new_tokens=100, prompt_lookup_num_tokens=16)
    assert (found.finish_reason, found.text) == ("context", letters("c", 24 - len(PROMPT)))


def test_a_stop_string_and_the_end_of_a_text_within_what_was_looked_up() -> None:
    pipeline = Seen().pipeline()
    (found,) = pipeline.generate(PROMPT, max_new_tokens=30, stop=["fg"], prompt_lookup_num_tokens=8)
    assert (found.finish_reason, found.text) == ("stop", "de")
    ends = Seen().pipeline(eos_token_ids=(ord("f"),))
    (found,) = ends.generate(PROMPT, max_new_tokens=30, prompt_lookup_num_tokens=8)
    assert (found.finish_reason, found.token_ids.tolist()) == ("eos", list(b"def"))


def test_a_stream_and_a_cancelled_one() -> None:
    pipeline = Seen().pipeline()
    assert "".join(pipeline.stream(PROMPT, max_new_tokens=11, prompt_lookup_num_tokens=4)) == letters("c", 11)
    asked: Iterator[bool] = iter([False, False, True])
    (found,) = pipeline.generate(PROMPT, max_new_tokens=30, prompt_lookup_num_tokens=4, cancel=lambda: next(asked))
    assert (found.finish_reason, found.text) == ("cancelled", letters("c", 6))


def test_a_text_that_is_read_anew_once_it_is_long() -> None:
    far = 20

    def function(values: Mapping[str, Array]) -> dict[str, Array]:
        total = values["past_value_0"].shape[2] + values["input_ids"].shape[1]
        found = cycle_function(values)
        return {**found, "logits": np.roll(found["logits"], 1 if total > far else 0, axis=2)}

    settings = {"recompute_at": far}
    (plain,) = Seen(function=function).pipeline(**settings).generate(PROMPT, max_new_tokens=20)
    seen = Seen(function=function)
    (found,) = seen.pipeline(**settings).generate(PROMPT, max_new_tokens=20, prompt_lookup_num_tokens=6)
    assert found.token_ids.tolist() == plain.token_ids.tolist()
    assert sum(run > far for run, _ in seen.runs) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_lookup_num_tokens": 0}, "prompt_lookup_num_tokens is 0"),
        ({"prompt_lookup_num_tokens": 65}, "prompt_lookup_num_tokens is 65"),
        ({"prompt_lookup_num_tokens": True}, "prompt_lookup_num_tokens is True"),
        ({"prompt_lookup_num_tokens": 2.5}, r"prompt_lookup_num_tokens is 2\.5"),
        ({"prompt_lookup_num_tokens": 4, "num_beams": 2}, "num_beams is 2, prompt_lookup_num_tokens 4"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Seen().pipeline().generate(PROMPT, **options)


def test_a_state_that_cannot_forget_is_refused() -> None:
    window = replace(mixed.STATE[2], input="past_value_0", output="present_value_0", shape=("batch", 1, 32, 1), axis=2)
    interface = Interface(inputs=toys.LM_INPUTS, outputs=toys.LM_OUTPUTS, dims=toys.LM_DIMS[:3], state=(window,))
    pipeline = TextPipeline(ArraySession(cycle_function, interface), toys.TEXT)
    with pytest.raises(InputError, match="this model cannot forget tokens that it has read"):
        pipeline.generate("abc", prompt_lookup_num_tokens=4)


def test_what_followed_is_of_the_longest_and_last_place() -> None:
    ids = np.array([1, 2, 3, 9, 5, 2, 3, 8, 1, 2, 3])
    assert followed(ids, 3).tolist() == [9, 5, 2]  # three tokens are alike there, two at the later place
    assert followed(ids[4:], 1).tolist() == [8]
    assert followed(np.array([4, 4, 4, 4]), 5).tolist() == [4] * 5
    assert followed(ids, 0).tolist() == []
    assert followed(ids[:2], 4).tolist() == []
    assert followed(np.array([1, 2, 1]), 4).tolist() == []  # one token alone is not looked for


def test_logits_of_every_token_that_is_read() -> None:
    for kind in ("growing", "buffer"):
        session = toys.lm_session(kind)
        engines = TextEngines(
            program=OpenProgram({"model": session}), settings=toys.TEXT, prefill="model", decode="model"
        )
        whole = Reading(engines, np.zeros(2, dtype=np.int64))
        ids = np.array([[1, 2, 3, 4, 5], [9, 8, 7, 6, 5]])
        wanted = whole.feed_each(ids)
        assert wanted is not None
        assert wanted.argmax(axis=2).tolist() == np.cumsum(ids, axis=1).tolist()
        pieces = Reading(engines, np.zeros(2, dtype=np.int64), prefill_chunk=2)
        found = pieces.feed_each(ids)
        assert found is not None
        np.testing.assert_array_equal(found, wanted)
