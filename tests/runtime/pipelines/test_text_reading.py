"""What a language model has read: in pieces that fit, cut back, with other rows, and anew where a model needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array, DimSpec, StateSpec
from aigc_runtime.errors import ConfigError, FeedError, InputError
from aigc_runtime.pipelines.text import TextPipeline
from aigc_runtime.pipelines.text_engines import TextEngines
from aigc_runtime.pipelines.text_reading import Reading

from .. import mixed, toys

Function = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class Seen:
    """A language model that notes how many tokens each run reads."""

    def __init__(self, kind: str = "growing", *, function: Function = toys.lm_function, **dims: DimSpec) -> None:
        self.runs: list[int] = []
        interface = toys.lm_session(kind).interface
        interface = interface.with_dims([dims.get(dim.name, dim) for dim in interface.dims])

        def run(values: Mapping[str, Array]) -> Mapping[str, Array]:
            self.runs.append(values["input_ids"].shape[1])
            return function(values)

        self.session = ArraySession(run, interface)

    def engines(self, settings: Any = toys.TEXT) -> TextEngines:
        program = OpenProgram({"model": self.session})
        return TextEngines(program=program, settings=settings, prefill="model", decode="model")

    def pipeline(self, settings: Any = toys.TEXT) -> TextPipeline:
        return TextPipeline(self.session, settings)


@pytest.mark.parametrize("kind", ["growing", "buffer"])
@pytest.mark.parametrize(("chunk", "runs"), [(1, [1] * 20), (6, [6, 6, 6, 2]), (19, [19, 1]), (20, [20]), (None, [20])])
def test_a_prompt_is_read_in_chunks(kind: str, chunk: int | None, runs: list[int]) -> None:
    seen = Seen(kind)
    prompts = ["b" * 20, "abc", "x" * 7]
    found = seen.pipeline().generate(prompts, max_new_tokens=3, prefill_chunk=chunk)
    assert seen.runs == [*runs, 1, 1]
    whole = TextPipeline(toys.lm_session(kind), toys.TEXT)
    for row, prompt in zip(found, prompts, strict=True):
        (alone,) = whole.generate(prompt, max_new_tokens=3)
        assert row.token_ids.tolist() == alone.token_ids.tolist()
    assert list(seen.pipeline().stream("b" * 20, max_new_tokens=3, prefill_chunk=chunk))
    assert seen.runs[len(runs) + 2 :] == [*runs, 1, 1]


@pytest.mark.parametrize("chunk", [0, -1, True, 1.5])
def test_a_bad_chunk(chunk: Any) -> None:
    with pytest.raises(InputError, match="prefill_chunk is"):
        Seen().pipeline().generate("a", prefill_chunk=chunk)
    with pytest.raises(InputError, match="prefill_chunk is"):
        Seen().pipeline().stream("a", prefill_chunk=chunk)


def test_a_chunk_is_what_the_engine_takes() -> None:
    seen = Seen(sequence=DimSpec(name="sequence", max=8))
    assert seen.pipeline().generate("b" * 20, max_new_tokens=1, prefill_chunk=12)[0].token_ids.tolist() == [
        toys.next_token([98] * 20)
    ]
    assert seen.runs == [8, 8, 4]
    seen = Seen(sequence=DimSpec(name="sequence", max=12, multiple_of=4))
    engines = seen.engines()
    assert engines.pieces(1, 0, 20, prefill_chunk=None) == [("model", 12), ("model", 8)]
    # What is left is read token by token by the engine that reads tokens.
    assert engines.pieces(1, 0, 6, prefill_chunk=None) == [("model", 4), ("model", 1), ("model", 1)]
    assert engines.pieces(1, 4, 1, prefill_chunk=None) == [("model", 1)]
    seen = Seen(sequence=DimSpec(name="sequence", max=1))
    assert seen.pipeline().generate("abc", max_new_tokens=1)[0].token_ids.tolist() == [toys.next_token([97, 98, 99])]
    assert seen.runs == [1, 1, 1]


def test_two_engines_of_fixed_sizes_read_any_prompt() -> None:
    read: list[int] = []

    def part(size: int) -> ArraySession:
        def run(values: Mapping[str, Array]) -> Mapping[str, Array]:
            read.append(values["input_ids"].shape[1])
            return toys.lm_function(values)

        interface = toys.lm_session("buffer").interface
        dims = [DimSpec(name="sequence", min=size, max=size) if d.name == "sequence" else d for d in interface.dims]
        return ArraySession(run, interface.with_dims(dims))

    sessions = {"reader": part(8), "writer": part(1)}
    program = OpenProgram(sessions, dict.fromkeys(sessions, "carried"))
    pipeline = TextPipeline(program, toys.TEXT, {"prefill": "reader", "decode": "writer"})
    for length, runs in ((3, [1] * 3), (8, [8]), (18, [8, 8, 1, 1])):
        read.clear()
        (found,) = pipeline.generate("b" * length, max_new_tokens=1)
        assert found.token_ids.tolist() == [toys.next_token([98] * length)]
        assert read == runs


def test_the_default_chunk_follows_from_the_memory_of_attention() -> None:
    state = tuple(
        StateSpec(
            input=f"past_{name}",
            output=f"present_{name}",
            dtype="float32",
            shape=("batch", 4, "past", 64),
            axis=2,
            kind="growing",
            step_dim="sequence",
        )
        for name in "kv"
    )
    interface = Interface(inputs=toys.LM_INPUTS, outputs=toys.LM_OUTPUTS, dims=toys.LM_DIMS, state=state)
    program = OpenProgram({"model": ArraySession(toys.lm_function, interface)})
    engines = TextEngines(program=program, settings=toys.TEXT, prefill="model", decode="model")
    program.on_cpu = False
    heads = 4 * 8  # heads of keys, and of the queries that may share one
    for rows, total in ((1, 4096), (1, 8192), (4, 8192)):
        tokens = engines.piece_tokens(rows, total)
        assert tokens * rows * heads * total * 4 <= 2**28 or tokens == 64
        assert (tokens + 1) * rows * heads * total * 4 > 2**28
    assert engines.piece_tokens(8, 10**6) == 64


def test_what_is_held_is_cut_back_and_given_other_rows() -> None:
    for kind in ("growing", "buffer"):
        seen = Seen(kind)
        reading = Reading(seen.engines(), np.array([0, 1]))
        logits = reading.feed(np.array([[1, 2, 3], [0, 5, 6]]))
        assert logits is not None
        assert logits.argmax(axis=1).tolist() == [6, 11]
        reading.truncate(2)
        assert (reading.length, reading.token_ids.tolist()) == (2, [[1, 2], [0, 5]])
        reading.select([1, 0, 0])
        logits = reading.feed(np.array([[7], [8], [9]]))
        assert logits is not None
        assert logits.argmax(axis=1).tolist() == [12, 11, 12]
        assert reading.token_ids.tolist() == [[0, 5, 7], [1, 2, 8], [1, 2, 9]]
        reading.truncate(0)
        assert (reading.length, reading.token_ids.shape) == (0, (3, 0))
        assert reading.feed(np.array([[1], [1], [1]])) is not None


def test_a_state_that_cannot_be_cut_back_is_begun_anew() -> None:
    window = replace(mixed.STATE[2], input="past_value_0", output="present_value_0", shape=("batch", 1, 32, 1), axis=2)

    def function(values: Mapping[str, Array]) -> Mapping[str, Array]:
        moved = np.concatenate([values["past_value_0"], values["input_ids"][:, None, :, None]], axis=2)[:, :, -32:]
        target = moved.sum(axis=(1, 2, 3))[:, None, None] % 256
        logits = -np.abs(np.arange(256, dtype=np.float32) - target)
        return {"logits": logits.astype(np.float32), "present_value_0": moved.astype(np.float32)}

    interface = Interface(inputs=toys.LM_INPUTS, outputs=toys.LM_OUTPUTS, dims=toys.LM_DIMS[:3], state=(window,))
    program = OpenProgram({"model": ArraySession(function, interface)})
    reading = Reading(
        TextEngines(program=program, settings=toys.TEXT, prefill="model", decode="model"), np.zeros(1, dtype=np.int64)
    )
    reading.feed(np.array([[1, 2, 3]]))
    reading.truncate(3)
    assert reading.length == 3
    reading.truncate(2)
    assert (reading.length, reading.token_ids.shape) == (0, (1, 0))
    logits = reading.feed(np.array([[1, 2]]))
    assert logits is not None
    assert logits.argmax() == 3


def test_a_cancelled_prompt_holds_what_was_read() -> None:
    reading = Reading(Seen().engines(), np.zeros(1, dtype=np.int64), prefill_chunk=2)
    asked = iter([False, False, True])
    assert reading.feed(np.arange(7)[None], cancel=lambda: next(asked)) is None
    assert reading.token_ids.tolist() == [[0, 1, 2, 3]]


FAR = 6
"""Steps beyond which the next model sees every token another way."""


def far_function(values: Mapping[str, Array]) -> dict[str, Array]:
    """A token counts twice where the text is longer than `FAR` when it is read."""
    held = int(values["past_length"][0]) if "past_length" in values else values["past_value_0"].shape[2]
    total = held + values["input_ids"].shape[1] - int(values["pad_length"].min())
    return toys.lm_function({**values, "input_ids": values["input_ids"] * (2 if total > FAR else 1)})


def far_tokens(prompt: str, count: int) -> list[int]:
    tokens = list(prompt.encode())
    for _ in range(count):
        tokens.append(sum(tokens) * (2 if len(tokens) > FAR else 1) % 256)
    return tokens[len(prompt.encode()) :]


AGAIN = replace(toys.TEXT, recompute_at=FAR)


@pytest.mark.parametrize("kind", ["growing", "buffer"])
@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_a_text_that_grows_too_long_is_read_anew_once(kind: str, chunk: int | None) -> None:
    for prompt in ("a", "abcde", "abcdef", "abcdefg", "abcdefghijkl"):
        seen = Seen(kind, function=far_function)
        pipeline = seen.pipeline(AGAIN)
        (found,) = pipeline.generate(prompt, max_new_tokens=10, prefill_chunk=chunk)
        assert found.token_ids.tolist() == far_tokens(prompt, 10), prompt
        assert sum(run > FAR for run in seen.runs) == 1
    plain = Seen(kind, function=far_function).pipeline()
    assert plain.generate("abcde", max_new_tokens=10)[0].token_ids.tolist() != far_tokens("abcde", 10)


def test_rows_that_are_read_anew_at_different_times_are_not_read_together() -> None:
    prompts = ["ab", "xy", "abcd", "abcdefgh", "abcdefghij", "a"]
    for count in (3, 10):
        seen = Seen(function=far_function)
        found = seen.pipeline(AGAIN).generate(prompts, max_new_tokens=count)
        for prompt, row in zip(prompts, found, strict=True):
            assert row.token_ids.tolist() == far_tokens(prompt, count)


def row_by_row(values: Mapping[str, Array]) -> dict[str, Array]:
    """The same, but that each row counts its own tokens: what a real model does behind padding."""
    total = values["past_value_0"].shape[2] + values["input_ids"].shape[1] - values["pad_length"]
    return toys.lm_function({**values, "input_ids": values["input_ids"] * np.where(total > FAR, 2, 1)[:, None]})


@pytest.mark.parametrize(("most", "first"), [(32, [13]), (12, [9, 12]), (9, [9, 9]), (7, [7, 7, 7])])
def test_long_rows_share_a_batch_where_the_first_run_holds_enough_of_each(most: int, first: list[int]) -> None:
    """A row of 7 behind 6 of padding has one token in a first run of 7: no more than a short text has."""
    seen = Seen(function=row_by_row, sequence=DimSpec(name="sequence", max=most))
    prompts = ["abcdefg", "abcdefghijklm", "xyzxyzxyz"]
    found = seen.pipeline(AGAIN).generate(prompts, max_new_tokens=4)
    for prompt, row in zip(prompts, found, strict=True):
        assert row.token_ids.tolist() == far_tokens(prompt, 4)
    assert [run for run in seen.runs if run > FAR] == first


def test_what_is_cut_back_to_a_short_text_is_read_anew() -> None:
    seen = Seen(function=far_function)
    reading = Reading(seen.engines(AGAIN), np.zeros(1, dtype=np.int64))
    reading.feed(np.ones((1, 9), dtype=np.int64))
    reading.truncate(3)
    logits = reading.feed(np.ones((1, 1), dtype=np.int64))
    assert logits is not None
    assert logits.argmax() == 4
    assert seen.runs == [9, 4]
    reading.truncate(2)
    reading.feed(np.ones((1, 1), dtype=np.int64))
    assert seen.runs == [9, 4, 1]


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_a_long_text_that_is_cut_back_and_grows_long_again_is_read_anew(chunk: int | None) -> None:
    """Two tokens are left of a long text, and five come: with the first of them alone it would be a short one."""
    seen = Seen(function=far_function)
    reading = Reading(seen.engines(AGAIN), np.zeros(1, dtype=np.int64), prefill_chunk=chunk)
    reading.feed(np.ones((1, 9), dtype=np.int64))
    for left, more, expected in ((2, 5, 14), (6, 2, 16), (7, 2, 18)):
        runs = len(seen.runs)
        reading.truncate(left)
        logits = reading.feed(np.ones((1, more), dtype=np.int64))
        assert logits is not None
        assert logits.argmax() == expected
        # The first run makes the text a long one: of all of it, or behind what is one but for that run.
        assert seen.runs[runs] + (left if left >= FAR else 0) > FAR


def test_an_engine_that_cannot_read_a_long_text_at_once() -> None:
    for dim, takes in (
        (DimSpec(name="sequence", max=6), "1 to 6 tokens at once\n"),
        (DimSpec(name="sequence", min=8, max=32), "8 to 32 tokens at once\n"),
        (DimSpec(name="sequence", multiple_of=7), "1 or more tokens at once in multiples of 7\n"),
    ):
        with pytest.raises(ConfigError, match=f"recompute_at is 6, the engine 'model' reads {takes}a longer text beg"):
            Seen(sequence=dim).pipeline(AGAIN)
    Seen(sequence=DimSpec(name="sequence", max=7)).pipeline(AGAIN)
    Seen(sequence=DimSpec(name="sequence", max=6)).pipeline(replace(AGAIN, recompute_at=32))


def test_more_than_the_state_holds_is_an_error_of_the_engine() -> None:
    reading = Reading(Seen().engines(), np.zeros(1, dtype=np.int64))
    with pytest.raises(FeedError):
        reading.feed(np.zeros((1, 33), dtype=np.int64))
