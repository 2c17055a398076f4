"""A conversation whose state is kept says what the model says when it reads all of it anew."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array, DimSpec, TensorSpec
from aigc_runtime.errors import EngineError, InputError
from aigc_runtime.generation.chat import ChatInfo, ChatTemplate
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.pipelines.chat import ChatSession, chat_ids
from aigc_runtime.pipelines.settings import TextSettings
from aigc_runtime.pipelines.text import TextPipeline, TextResult

from .. import toys

pytest.importorskip("jinja2")

CONTEXT = 160
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SETTINGS = replace(
    toys.TEXT,
    context_length=CONTEXT,
    chat=ChatInfo(templates={"default": "chat_template.jinja"}, special_tokens={}),
)


def function(values: Mapping[str, Array]) -> dict[str, Array]:
    """The toy model, to which the place of a token matters; it says letters alone, but for every fifth sum."""
    ids = values["input_ids"]
    held = int(values["past_length"][0]) if "past_length" in values else values["past_value_0"].shape[2]
    out = toys.lm_function({**values, "input_ids": ids * (1 + (held + np.arange(ids.shape[1])) % 7)})
    target = out["logits"].argmax(axis=2)
    letters = np.where(target % 5 == 0, 128 + target % 128, 97 + target % 26)[:, :, None]
    out["logits"] = -np.abs(np.arange(256) - letters).astype(np.float32)
    return out


class Model:
    """A chat model that notes how many tokens each run reads, and may fail."""

    def __init__(self, kind: str = "growing", settings: TextSettings = SETTINGS, batch: int | None = None) -> None:
        self.runs: list[int] = []
        self.fails = False
        dims = [replace(d, max=None if d.name == "batch" else CONTEXT) for d in toys.LM_DIMS]
        if batch is not None:
            dims[0] = DimSpec(name="batch", min=batch, max=batch)
        inputs = [
            TensorSpec(**{**vars(t), "high": CONTEXT if t.name == "pad_length" else t.high}) for t in toys.LM_INPUTS
        ]
        state = toys.lm_state(kind)
        if kind == "buffer":
            state = (replace(state[0], shape=("batch", 1, CONTEXT, 1)),)
            dims = [d for d in dims if d.name != "past"]
        interface = Interface(inputs=tuple(inputs), outputs=toys.LM_OUTPUTS, dims=tuple(dims), state=state)
        program = OpenProgram(
            {"model": ArraySession(self._run, interface)}, assets={"chat_template.jinja": TEMPLATE.encode()}
        )
        self.pipeline = TextPipeline(program, settings)

    def _run(self, values: Mapping[str, Array]) -> Mapping[str, Array]:
        if self.fails:
            raise EngineError("the engine failed")
        self.runs.append(values["input_ids"].shape[1])
        return function(values)


def said(stream: Generator[str, None, TextResult]) -> tuple[str, TextResult]:
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return "".join(pieces), end.value


def anew(messages: list[Any], kind: str = "growing", settings: TextSettings = SETTINGS, **options: Any) -> TextResult:
    """What a fresh run says."""
    pipeline = Model(kind, settings).pipeline
    most = {"max_new_tokens": CONTEXT, **options}
    (result,) = pipeline.generate([chat_ids(pipeline, messages)], **most)
    return result


@pytest.mark.parametrize("kind", ["growing", "buffer"])
@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "top_k": 5, "seed": 3}], ids=["greedy", "drawn"])
def test_every_turn_is_that_of_a_fresh_run(kind: str, options: dict[str, Any]) -> None:
    model = Model(kind)
    chat = ChatSession(model.pipeline, system="be")
    for turn, text in enumerate(("Hi", "and?", "", "so")):
        asked = [*chat.messages, {"role": "user", "content": text}]
        before = len(model.runs)
        told, result = said(chat.send(text, max_new_tokens=9, **options))
        fresh = anew(asked, kind, max_new_tokens=9, **options)
        assert told == result.text == fresh.text
        assert result.token_ids.tolist() == fresh.token_ids.tolist()
        assert (result.finish_reason, result.prompt_tokens) == ("length", fresh.prompt_tokens)
        assert chat.messages == [*asked, {"role": "assistant", "content": told}]
        # Only what is new was read.
        assert model.runs[before] == result.prompt_tokens - chat.reused_tokens
        assert (chat.reused_tokens > 20) == (turn > 0)
        assert chat.held_tokens == result.prompt_tokens + 8


def test_an_edited_turn_is_read_from_there_on() -> None:
    for kind in ("growing", "buffer"):
        chat = ChatSession(Model(kind).pipeline)
        for text in ("one", "two"):
            said(chat.send(text, max_new_tokens=6))
        chat.messages[2] = {"role": "user", "content": "twelve"}
        del chat.messages[3:]
        asked = list(chat.messages)
        told, result = said(chat.reply(max_new_tokens=6))
        assert result.token_ids.tolist() == anew(asked, kind, max_new_tokens=6).token_ids.tolist()
        assert chat.messages == [*asked, {"role": "assistant", "content": told}]
        shared = len("<user>one</><assistant>" + chat.messages[1]["content"] + "</><user>tw")
        assert chat.reused_tokens == shared
        chat.reset()
        said(chat.send("one", max_new_tokens=6))
        assert chat.reused_tokens == len("<user>one</><assistant>") - 1
        chat.reset(system="s")
        told, result = said(chat.send("one", max_new_tokens=6))
        assert chat.reused_tokens == 1
        assert chat.messages[0] == {"role": "system", "content": "s"}
        assert result.token_ids.tolist() == anew(chat.messages[:-1], kind, max_new_tokens=6).token_ids.tolist()


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_turn_that_is_broken_off_leaves_what_was_said(how: str) -> None:
    chat = ChatSession(Model().pipeline)
    said(chat.send("one", max_new_tokens=5))
    if how == "cancel":
        asked = iter([False] * 4 + [True])
        told, result = said(chat.send("two", cancel=lambda: next(asked)))
        assert (len(result.token_ids), result.finish_reason) == (4, "cancelled")
    else:
        stream = chat.send("two")
        told = next(stream) + next(stream)
        stream.close()
    assert chat.messages[-1]["content"].startswith(told)
    before = list(chat.messages)
    _, result = said(chat.send("three", max_new_tokens=5))
    asked_now = [*before, {"role": "user", "content": "three"}]
    assert result.token_ids.tolist() == anew(asked_now, max_new_tokens=5).token_ids.tolist()
    assert chat.reused_tokens > 30


def test_a_prompt_that_is_cancelled_while_it_is_read_is_read_on_later() -> None:
    model = Model()
    chat = ChatSession(model.pipeline)
    asked = iter([False, False, True])
    _, result = said(chat.send("x" * 40, prefill_chunk=10, cancel=lambda: next(asked)))
    assert (result.text, result.finish_reason, chat.held_tokens) == ("", "cancelled", 20)
    del chat.messages[-1]
    _, result = said(chat.reply(max_new_tokens=4))
    assert chat.reused_tokens == 20
    assert model.runs[:3] == [10, 10, result.prompt_tokens - 20]
    assert result.token_ids.tolist() == anew(chat.messages[:-1], max_new_tokens=4).token_ids.tolist()


def test_a_full_context_ends_a_turn_with_its_reason_and_refuses_the_next() -> None:
    chat = ChatSession(Model().pipeline)
    told, result = said(chat.send("go on"))
    assert (result.finish_reason, len(result.token_ids)) == ("context", CONTEXT - result.prompt_tokens)
    before = list(chat.messages)
    with pytest.raises(InputError, match=r"the chat has \d+ tokens, the context holds 160\nbegin anew"):
        chat.send("more")
    assert chat.messages == before
    chat.reset()
    assert said(chat.send("go on"))[0] == told


def test_a_turn_that_fails_changes_nothing() -> None:
    model = Model()
    chat = ChatSession(model.pipeline)
    said(chat.send("one", max_new_tokens=5))
    before = list(chat.messages)
    stream = chat.send("two", max_new_tokens=30)
    next(stream)
    model.fails = True
    with pytest.raises(EngineError, match="the engine failed"):
        list(stream)
    model.fails = False
    assert chat.messages == before
    assert chat.held_tokens == 0  # nobody knows what the engine left behind
    _, result = said(chat.send("two", max_new_tokens=5))
    assert result.token_ids.tolist() == anew(chat.messages[:-1], max_new_tokens=5).token_ids.tolist()


def test_one_turn_at_a_time() -> None:
    chat = ChatSession(Model().pipeline)
    stream = chat.send("one", max_new_tokens=5)
    other = chat.send("two", max_new_tokens=5)
    next(stream)
    with pytest.raises(InputError, match="a turn is under way"):
        next(other)
    list(stream)
    assert chat.messages[0]["content"] == "one"


@pytest.mark.parametrize("later", ["send", "reset"])
def test_an_answer_to_a_conversation_that_has_changed_is_refused(later: str) -> None:
    """Two questions at once, and their answers one after the other: the second would forget the first turn."""
    chat = ChatSession(Model().pipeline)
    said(chat.send("zero", max_new_tokens=5))
    first = chat.send("one", max_new_tokens=5)
    if later == "send":
        said(chat.send("two", max_new_tokens=5))
    else:
        chat.reset()
    before = list(chat.messages)
    with pytest.raises(InputError, match="the conversation has changed since this answer was asked for\nread each"):
        next(first)
    assert chat.messages == before
    said(chat.send("three", max_new_tokens=5))
    assert chat.messages[:-2] == before


def test_a_text_that_is_read_anew_and_an_engine_of_fixed_rows() -> None:
    """A model that reads all of a long text anew, cut back below that length, and one that takes three rows."""
    long = replace(SETTINGS, recompute_at=40)
    chat = ChatSession(Model(settings=long).pipeline)
    for text in ("Hi", "and?", "so"):
        asked = [*chat.messages, {"role": "user", "content": text}]
        _, result = said(chat.send(text, max_new_tokens=7))
        assert result.token_ids.tolist() == anew(asked, settings=long, max_new_tokens=7).token_ids.tolist()
    chat = ChatSession(Model(batch=3).pipeline)
    for text in ("Hi", "and?"):
        asked = [*chat.messages, {"role": "user", "content": text}]
        _, result = said(chat.send(text, max_new_tokens=7))
        assert result.token_ids.tolist() == anew(asked, max_new_tokens=7).token_ids.tolist()
    assert chat.reused_tokens > 20


def test_turns_in_which_tokens_are_looked_up_go_on_from_each_other() -> None:
    model = Model()
    chat = ChatSession(model.pipeline)
    for text in ("Hi", "and?"):
        asked = [*chat.messages, {"role": "user", "content": text}]
        _, result = said(chat.send(text, max_new_tokens=5, prompt_lookup_num_tokens=4))
        assert result.token_ids.tolist() == anew(asked, max_new_tokens=5).token_ids.tolist()
    assert chat.reused_tokens > 20
    stream = chat.send("so", max_new_tokens=5, prompt_lookup_num_tokens=4)
    next(stream)
    stream.close()
    asked = [*chat.messages, {"role": "user", "content": "end"}]
    _, result = said(chat.send("end", max_new_tokens=3))
    assert result.token_ids.tolist() == anew(asked, max_new_tokens=3).token_ids.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"top_q": 1}, "unknown sampling option 'top_q'"),
        ({"num_beams": 2}, "num_beams is 2\nthe text of a beam search is known at its end"),
        ({"prefill_chunk": 0}, "prefill_chunk is 0"),
        ({"prompt_lookup_num_tokens": 0}, "prompt_lookup_num_tokens is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"sampling": SamplingParams(suppress_tokens=(999,))}, "suppress_tokens holds token 999"),
    ],
)
def test_bad_options_raise_at_once(options: dict[str, Any], message: str) -> None:
    chat = ChatSession(Model().pipeline)
    with pytest.raises(InputError) as caught:
        chat.send("a", **options)
    assert message in str(caught.value)
    assert chat.messages == []


def test_a_chat_that_the_template_writes_nothing_for() -> None:
    model = Model()
    model.pipeline.chat_template = ChatTemplate({"default": "{{ messages[-1].content }}"}, {})
    chat = ChatSession(model.pipeline)
    for before in ("", "ab"):
        if before:
            said(chat.send(before, max_new_tokens=3))
        with pytest.raises(
            InputError, match="the chat template writes nothing for this chat\ngive a message that is not"
        ):
            chat.send("")
    assert len(chat.messages) == 2


def test_what_is_no_message_and_a_model_without_a_template() -> None:
    chat = ChatSession(Model().pipeline)
    with pytest.raises(InputError, match="a message is 5\nmust be a string"):
        chat.send(5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a chat has no messages"):
        chat.reply()
    plain = TextPipeline(toys.lm_session(), toys.TEXT)
    with pytest.raises(InputError, match="this model has no chat template, so that it takes no messages"):
        ChatSession(plain)
    with pytest.raises(InputError, match="this model has no chat template"):
        chat_ids(plain, [{"role": "user", "content": "a"}])
