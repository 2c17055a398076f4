"""Text generation over the toy model, whose next token is the sum of all before it, modulo 256."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.errors import ConfigError, EngineError, InputError
from aigc_runtime.generation.logits import SamplingParams
from aigc_runtime.pipelines.text import TextPipeline
from aigc_runtime.proof.bench import bench_step

from .. import toys

HOT = SamplingParams(temperature=50.0)


@pytest.fixture(params=["growing", "buffer"])
def pipeline(request: pytest.FixtureRequest) -> TextPipeline:
    return TextPipeline(toys.lm_session(request.param), toys.TEXT)


def expected(prompt: str, count: int) -> list[int]:
    tokens = list(prompt.encode())
    for _ in range(count):
        tokens.append(toys.next_token(tokens))
    return tokens[len(prompt.encode()) :]


def test_greedy_continuation_is_the_models_own(pipeline: TextPipeline) -> None:
    (result,) = pipeline.generate("ab", max_new_tokens=8)
    assert result.token_ids.tolist() == expected("ab", 8)
    assert result.token_ids.dtype == np.int64
    assert (result.finish_reason, result.prompt_tokens) == ("length", 2)


def test_only_the_logits_of_the_last_place_are_asked_for() -> None:
    asked: list[list[int]] = []

    def function(values: Any) -> Any:
        asked.append(values["logits_to_keep"].tolist())
        return toys.lm_function(values)

    session = ArraySession(function, toys.lm_session().interface)
    TextPipeline(session, toys.TEXT).generate(["hello", "a"], max_new_tokens=4)
    assert asked == [[4], [0], [0], [0]]


@pytest.mark.parametrize("sampling", [None, HOT])
def test_a_rows_text_does_not_depend_on_the_batch(pipeline: TextPipeline, sampling: SamplingParams | None) -> None:
    prompts = ["a", "hello", "xy"]
    together = pipeline.generate(prompts, max_new_tokens=10, sampling=sampling, seed=7)
    for i, prompt in enumerate(prompts):
        (alone,) = pipeline.generate(prompt, max_new_tokens=10, sampling=sampling, seed=7 + i)
        assert together[i].token_ids.tolist() == alone.token_ids.tolist()


def test_sampling_is_seeded_and_varies_with_the_seed(pipeline: TextPipeline) -> None:
    def draw(seed: int) -> list[int]:
        drawn: list[int] = pipeline.generate("ab", max_new_tokens=12, sampling=HOT, seed=seed)[0].token_ids.tolist()
        return drawn

    assert draw(1) == draw(1)
    assert len({tuple(draw(seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize("sampling", [None, HOT])
def test_the_stream_joined_is_the_text(pipeline: TextPipeline, sampling: SamplingParams | None) -> None:
    for seed in range(5):
        pieces = list(pipeline.stream("hé", max_new_tokens=20, sampling=sampling, seed=seed))
        (result,) = pipeline.generate("hé", max_new_tokens=20, sampling=sampling, seed=seed)
        assert "".join(pieces) == result.text


class Script:
    """A session that says a given text, whatever it is fed."""

    def __init__(self, text: bytes) -> None:
        self.text, self.at = text, 0

    def session(self) -> ArraySession:
        def function(values):  # type: ignore[no-untyped-def]
            logits = np.full((len(values["input_ids"]), len(values["logits_to_keep"]), 256), -1.0, dtype=np.float32)
            logits[:, -1, self.text[self.at]] = 1.0
            self.at += 1
            return {"logits": logits}

        return ArraySession(function, Interface(inputs=toys.LM_INPUTS, outputs=toys.LM_OUTPUTS, dims=toys.LM_DIMS))


def scripted(text: str) -> TextPipeline:
    return TextPipeline(Script(text.encode()).session(), toys.TEXT)


@pytest.mark.parametrize(
    ("text", "stop", "shown"),
    [
        ("one END two", ["END"], "one "),
        ("aab aabc", ["aabc"], "aab "),
        ("x\n\ny", ["\n\n"], "x"),
        ("ababac..", ["abac", "zz"], "ab"),
        ("first B A", ["A", "B"], "first "),
        ("STOP", ["STOP"], ""),
    ],
)
def test_text_ends_before_the_stop_string(text: str, stop: list[str], shown: str) -> None:
    (result,) = scripted(text).generate("p", max_new_tokens=len(text), stop=stop)
    assert (result.text, result.finish_reason) == (shown, "stop")
    assert "".join(scripted(text).stream("p", max_new_tokens=len(text), stop=stop)) == shown


@pytest.mark.parametrize("text", [b"a\xc3", b"a\xc3!"], ids=["length", "eos"])
def test_a_stop_string_that_a_decoder_tells_at_the_very_end_is_the_reason(text: bytes) -> None:
    pipeline = TextPipeline(Script(text).session(), dataclasses.replace(toys.TEXT, eos_token_ids=(ord("!"),)))
    (result,) = pipeline.generate("p", max_new_tokens=len(text), stop=["\ufffd"])
    assert (result.text, result.finish_reason, len(result.token_ids)) == ("a", "stop", len(text))


def test_what_only_looked_like_a_stop_string_is_shown_in_the_end() -> None:
    assert scripted("so EN").generate("p", max_new_tokens=5, stop=["END"])[0].text == "so EN"
    assert "".join(scripted("so EN").stream("p", max_new_tokens=5, stop=["END"])) == "so EN"


def test_the_stream_never_shows_part_of_a_stop_string_or_of_a_character() -> None:
    text = "é∑ EN END"
    for piece in scripted(text).stream("p", max_new_tokens=len(text.encode()), stop=["END"]):
        assert "�" not in piece
        assert "END" not in piece


def test_bytes_that_are_no_character_become_replacement_marks() -> None:
    pipeline = TextPipeline(Script(b"a\xc3").session(), toys.TEXT)
    assert pipeline.generate("p", max_new_tokens=2)[0].text == "a�"


def test_an_end_of_text_token_ends_a_row_and_is_not_shown() -> None:
    settings = dataclasses.replace(toys.TEXT, eos_token_ids=(ord("?"), ord("!")))
    pipeline = TextPipeline(Script(b"ok!never").session(), settings)
    (result,) = pipeline.generate("p", max_new_tokens=8)
    assert (result.text, result.finish_reason, result.token_ids.tolist()) == ("ok", "eos", list(b"ok!"))
    pipeline = TextPipeline(Script(b"ok!never").session(), settings)
    assert "".join(pipeline.stream("p", max_new_tokens=8)) == "ok"


def test_the_context_is_a_limit(pipeline: TextPipeline) -> None:
    (result,) = pipeline.generate("a" * 30, max_new_tokens=10)
    assert (len(result.token_ids), result.finish_reason) == (2, "context")
    with pytest.raises(InputError, match=r"prompt 0 has 32 tokens, the context holds 32\nshorten it to at most 31"):
        pipeline.generate("a" * 32)


def test_cancelling_keeps_what_is_there(pipeline: TextPipeline) -> None:
    asked = iter([False, False, False, True])
    (result,) = pipeline.generate("ab", max_new_tokens=20, cancel=lambda: next(asked))
    assert (len(result.token_ids), result.finish_reason) == (3, "cancelled")
    asked = iter([False, True])
    assert len(list(pipeline.stream("ab", max_new_tokens=20, cancel=lambda: next(asked)))) <= 1


def test_a_stream_can_be_closed_early(pipeline: TextPipeline) -> None:
    stream = pipeline.stream("ab", max_new_tokens=20)
    next(stream)
    assert isinstance(stream, Generator)
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": ""}, "prompt 0 is empty"),
        ({"prompts": []}, "no prompt was given"),
        ({"prompts": ["a", ""]}, "prompt 1 is empty"),
        ({"prompts": [b"a"]}, "prompt 0 is b'a'"),
        ({"prompts": "a", "max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"prompts": "a", "max_new_tokens": True}, "max_new_tokens is True"),
        ({"prompts": "a", "seed": -1}, "seed is -1"),
        ({"prompts": "a", "stop": "END"}, "stop is 'END'"),
        ({"prompts": "a", "stop": [""]}, "stop is ['']"),
    ],
)
def test_bad_requests_are_named(pipeline: TextPipeline, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        pipeline.generate(**arguments)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_a_bad_stream_raises_before_it_is_read(pipeline: TextPipeline) -> None:
    bad: list[dict[str, Any]] = [{"prompt": ""}, {"prompt": "a", "max_new_tokens": 0}, {"prompt": "a", "stop": [""]}]
    for arguments in bad:
        with pytest.raises(InputError):
            pipeline.stream(**arguments)


def test_nan_logits_are_an_engine_error() -> None:
    def function(values):  # type: ignore[no-untyped-def]
        return {
            "logits": np.full((len(values["input_ids"]), len(values["logits_to_keep"]), 256), np.nan, dtype=np.float32)
        }

    session = ArraySession(function, Interface(inputs=toys.LM_INPUTS, outputs=toys.LM_OUTPUTS, dims=toys.LM_DIMS))
    with pytest.raises(EngineError, match="row 0 has logits that are NaN"):
        TextPipeline(session, toys.TEXT).generate("a")


def test_a_repetition_penalty_turns_away_from_what_was_said() -> None:
    def function(values):  # type: ignore[no-untyped-def]
        logits = np.zeros((len(values["input_ids"]), len(values["logits_to_keep"]), 256), dtype=np.float32)
        logits[:, :, ord("a")], logits[:, :, ord("b")] = 2.0, 1.9
        return {"logits": logits}

    session = ArraySession(function, Interface(inputs=toys.LM_INPUTS, outputs=toys.LM_OUTPUTS, dims=toys.LM_DIMS))
    pipeline = TextPipeline(session, toys.TEXT)
    assert pipeline.generate("p", max_new_tokens=2)[0].text == "aa"
    assert pipeline.generate("p", max_new_tokens=2, sampling=SamplingParams(repetition_penalty=1.5))[0].text == "ab"
    assert pipeline.generate("a", max_new_tokens=1, sampling=SamplingParams(repetition_penalty=1.5))[0].text == "b"


TURNS = {"prefill": "reader", "decode": "writer"}


def two_engines(cache: str = "growing", states: dict[str, str] | None = None) -> tuple[OpenProgram, list[str]]:
    """The toy as two engines over one state, and a list of which of them ran on how many tokens."""
    interface, ran = toys.lm_session(cache).interface, list[str]()

    def session(name: str) -> ArraySession:
        def function(values: Any) -> Any:
            ran.append(f"{name} {values['input_ids'].shape[1]}")
            return toys.lm_function(values)

        return ArraySession(function, interface)

    shared = dict.fromkeys(TURNS.values(), "carried") if states is None else states
    return OpenProgram({name: session(name) for name in TURNS.values()}, shared), ran


@pytest.mark.parametrize("cache", ["growing", "buffer"])
def test_a_prompt_is_read_by_one_engine_and_continued_by_another(cache: str) -> None:
    program, ran = two_engines(cache)
    pipeline = TextPipeline(program, toys.TEXT, TURNS)
    first, second = pipeline.generate(["abc" * 4, "z"], max_new_tokens=4)
    assert first.token_ids.tolist() == expected("abc" * 4, 4)
    assert second.token_ids.tolist() == expected("z", 4)
    assert ran == ["reader 12", "writer 1", "writer 1", "writer 1"]
    alone = TextPipeline(toys.lm_session(cache), toys.TEXT)
    assert "".join(pipeline.stream("abc", max_new_tokens=9)) == "".join(alone.stream("abc", max_new_tokens=9))


def test_two_engines_must_share_their_state() -> None:
    for states in ({}, {"reader": "a", "writer": "b"}, {"reader": "a"}):
        with pytest.raises(ConfigError, match=r"'reader' and 'writer' do not share a carried state\ndecode goes on"):
            TextPipeline(two_engines(states=states)[0], toys.TEXT, TURNS)


def test_both_engines_are_closed() -> None:
    program, _ = two_engines()
    with TextPipeline(program, toys.TEXT, TURNS) as pipeline:
        pipeline.generate("a", max_new_tokens=2)
    for session in program.sessions.values():
        with pytest.raises(EngineError, match="closed"):
            session.run(toys.lm_feeds([[0]]))


def test_a_step_of_two_engines_is_one_of_the_second() -> None:
    program, ran = two_engines()
    assert bench_step(program, toys.TEXT, TURNS, runs=20, warmup=0).runs == 20
    assert ran[0] == "writer 16"  # too few for an engine for prompts
    assert ran[1:17] == ["writer 1"] * 16
    assert ran[17] == "writer 16"  # the context of 32 is full
