"""Rows of one request: each has its own room, its own draws, and what it would have alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.tensors import Array, DimSpec
from aigc_runtime.errors import InputError, UnknownNameError
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.pipelines.text import TextPipeline

from .. import toys
from .test_text_vs_transformers import make_session

HOT = SamplingParams(temperature=50.0)


class Batches:
    """A language model that notes how many rows each prompt's run has."""

    def __init__(self, kind: str = "growing", batch: DimSpec | None = None) -> None:
        self.batches: list[int] = []
        interface = toys.lm_session(kind).interface

        def run(values: Mapping[str, Array]) -> Mapping[str, Array]:
            if values["input_ids"].shape[1] > 1:
                self.batches.append(len(values["input_ids"]))
            return toys.lm_function(values)

        dims = [batch if batch is not None and d.name == "batch" else d for d in interface.dims]
        self.pipeline = TextPipeline(ArraySession(run, interface.with_dims(dims)), toys.TEXT)


def continued(prompt: str, count: int) -> list[int]:
    tokens = list(prompt.encode())
    for _ in range(count):
        tokens.append(toys.next_token(tokens))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("kind", ["growing", "buffer"])
def test_each_row_has_its_own_context(kind: str) -> None:
    prompts = ["b" * 30, "ab", "c" * 31, "xyz", "qr"]
    found = Batches(kind).pipeline.generate(prompts, max_new_tokens=100)
    for prompt, row in zip(prompts, found, strict=True):
        assert row.token_ids.tolist() == continued(prompt, toys.CONTEXT - len(prompt))
        assert (row.finish_reason, row.prompt_tokens) == ("context", len(prompt))


def test_rows_that_fit_together_are_generated_together() -> None:
    model = Batches()
    found = model.pipeline.generate(["b" * 20, "ab", "xyz", "qr"], max_new_tokens=13)
    assert model.batches == [4]
    assert [row.finish_reason for row in found] == ["context", "length", "length", "length"]
    assert len(found[0].token_ids) == 12
    model = Batches()
    model.pipeline.generate(["b" * 21, "ab", "xyz", "qr"], max_new_tokens=13)
    assert model.batches == [3, 1]


def test_more_rows_than_the_engine_takes_are_split_and_come_in_order() -> None:
    model = Batches(batch=DimSpec(name="batch", max=3))
    prompts = [f"p{i}" + "x" * (i % 4) for i in range(8)]
    found = model.pipeline.generate(prompts, max_new_tokens=4)
    assert model.batches == [3, 3, 2]
    assert [row.token_ids.tolist() for row in found] == [continued(prompt, 4) for prompt in prompts]


@pytest.mark.parametrize(
    "dim", [DimSpec(name="batch", min=4, max=4), DimSpec(name="batch", min=2, max=7, multiple_of=2)]
)
def test_an_engine_of_fixed_rows_takes_any_number(dim: DimSpec) -> None:
    for prompts in (["ab"], ["a" * 5, "bc", "def"], [f"{i}{i}" for i in range(7)]):
        model = Batches(batch=dim)
        found = model.pipeline.generate(prompts, max_new_tokens=4)
        assert [row.token_ids.tolist() for row in found] == [continued(prompt, 4) for prompt in prompts]
        assert all(rows % dim.multiple_of == 0 and rows >= dim.min for rows in model.batches)
        assert "".join(model.pipeline.stream(prompts[0], max_new_tokens=4)) == found[0].text


def test_results_of_one_prompt_differ_and_do_not_depend_on_the_batch() -> None:
    pipeline = TextPipeline(toys.lm_session(), toys.TEXT)
    found = pipeline.generate(["ab", "hello"], max_new_tokens=12, sampling=HOT, seed=5, num_return_sequences=3)
    assert len({tuple(row.token_ids.tolist()) for row in found}) == 6
    alone = pipeline.generate("hello", max_new_tokens=12, sampling=HOT, seed=6, num_return_sequences=2)
    assert [row.token_ids.tolist() for row in found[3:5]] == [row.token_ids.tolist() for row in alone]
    (first,) = pipeline.generate("hello", max_new_tokens=12, sampling=HOT, seed=6)
    assert first.token_ids.tolist() == found[3].token_ids.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_return_sequences": 10_001}, "1 prompts with 10,001 results each are requested\nat most 10,000"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0\nmust be an integer of at least 1"),
        ({"logprobs": -1}, "logprobs is -1\nmust be an integer from 0 to 256"),
        ({"logprobs": 257}, "logprobs is 257"),
        ({"logprobs": True}, "logprobs is True"),
        ({"sampling": {"top_k": 1}}, "sampling is {'top_k': 1}\nmust be SamplingParams"),
        ({"top_p": 2}, "top_p is 2"),
        ({"suppress_tokens": [256]}, "suppress_tokens holds token 256\nthe model's tokens are 0 to 255"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        TextPipeline(toys.lm_session(), toys.TEXT).generate("a", **options)
    assert message in str(caught.value)


def test_an_unknown_option_is_named() -> None:
    pipeline = TextPipeline(toys.lm_session(), toys.TEXT)
    for call in (pipeline.generate, pipeline.stream):
        with pytest.raises(UnknownNameError, match=r"unknown sampling option 'top_pp'\n.*Did you mean 'top_p'"):
            call("a", top_pp=1)


def test_the_models_own_sampling_is_the_default_and_single_options_change_it() -> None:
    settings = replace(toys.TEXT, sampling=HOT)
    pipeline = TextPipeline(toys.lm_session(), settings)

    def drawn(**options: Any) -> list[int]:
        (row,) = pipeline.generate("ab", max_new_tokens=12, seed=3, **options)
        pieces = pipeline.stream("ab", max_new_tokens=12, seed=3, **options)
        assert "".join(pieces) == row.text
        return [int(token) for token in row.token_ids]

    assert drawn() == drawn(sampling=HOT) != drawn(temperature=0.0)
    assert drawn(temperature=0.0) == drawn(sampling=SamplingParams()) == continued("ab", 12)
    assert drawn(top_k=1) == continued("ab", 12)
    assert drawn(sampling=SamplingParams(), temperature=50.0) == drawn()


def test_log_probabilities_are_those_of_the_logits() -> None:
    pipeline = TextPipeline(make_session(), toys.TEXT)
    prompts = ["ab", "hello"]
    for sampling in (SamplingParams(), SamplingParams(temperature=3.0, top_k=20, repetition_penalty=1.5)):
        found = pipeline.generate(prompts, max_new_tokens=5, sampling=sampling, seed=1, logprobs=3)
        for prompt, row in zip(prompts, found, strict=True):
            assert row.logprobs is not None
            assert row.logprobs.top_ids.shape == row.logprobs.top.shape == (5, 3)
            ids = [*prompt.encode(), *row.token_ids.tolist()]
            session = make_session()
            logits = session.run(toys.lm_feeds([ids]), session.new_state(1))["logits"][0].astype(np.float64)
            logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            for at, token in enumerate(row.token_ids):
                expected = logprobs[len(prompt) - 1 + at]
                best = np.argsort(-expected)[:3]
                np.testing.assert_allclose(row.logprobs.chosen[at], expected[token], rtol=1e-12)
                np.testing.assert_allclose(row.logprobs.top[at], expected[best], rtol=1e-12)
                assert row.logprobs.top_ids[at].tolist() == best.tolist()
    (none,) = pipeline.generate("ab", max_new_tokens=2)
    (chosen,) = pipeline.generate("ab", max_new_tokens=2, logprobs=0)
    assert none.logprobs is None
    assert chosen.logprobs is not None
    assert (chosen.logprobs.chosen.shape, chosen.logprobs.top_ids.shape) == ((2,), (2, 0))


def test_times_are_told() -> None:
    pipeline = TextPipeline(toys.lm_session(), toys.TEXT)
    (row,) = pipeline.generate("ab", max_new_tokens=5)
    assert row.time_to_first_token_s is not None
    assert row.tokens_per_second is not None
    assert row.time_to_first_token_s > 0 < row.tokens_per_second
    (one,) = pipeline.generate("ab", max_new_tokens=1)
    assert one.tokens_per_second is None
    (none,) = pipeline.generate("ab", cancel=lambda: True)
    assert (none.finish_reason, none.time_to_first_token_s, len(none.token_ids)) == ("cancelled", None, 0)


def test_a_stream_ends_with_its_result() -> None:
    pipeline = TextPipeline(toys.lm_session(), toys.TEXT)
    stream, pieces = pipeline.stream("hi", max_new_tokens=9, stop=["\x00"], logprobs=1), list[str]()
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            result = end.value
            break
    (whole,) = pipeline.generate("hi", max_new_tokens=9, stop=["\x00"], logprobs=1)
    assert result.text == whole.text == "".join(pieces)
    assert result.token_ids.tolist() == whole.token_ids.tolist()
    assert result.finish_reason == whole.finish_reason
    assert result.logprobs is not None


def test_options_that_leave_no_token() -> None:
    pipeline = TextPipeline(toys.lm_session(), toys.TEXT)
    with pytest.raises(InputError, match="the sampling options leave row 0 no token"):
        pipeline.generate("a", suppress_tokens=list(range(256)))


def test_a_row_that_ended_is_asked_for_no_more_tokens() -> None:
    """One row ends at once; the options would leave it no token later, and nothing is chosen for it."""
    settings = replace(toys.TEXT, eos_token_ids=(97,))
    pipeline = TextPipeline(toys.lm_session(), settings)
    first, second = pipeline.generate(["10", "b"], max_new_tokens=4, bad_words_ids=[[97, i] for i in range(256)])
    assert (first.finish_reason, second.finish_reason) == ("eos", "length")


@pytest.mark.parametrize("kind", ["growing", "buffer"])
def test_a_prompt_of_several_results_is_read_once(kind: str) -> None:
    model = Batches(kind)
    found = model.pipeline.generate(
        ["abc", "hello", "abc"], max_new_tokens=6, sampling=HOT, seed=4, num_return_sequences=2
    )
    assert model.batches == [2]
    for i, prompt in enumerate(["abc", "hello", "abc"]):
        alone = Batches(kind).pipeline.generate(
            prompt, max_new_tokens=6, sampling=HOT, seed=4 + i, num_return_sequences=2
        )
        assert [row.token_ids.tolist() for row in found[2 * i : 2 * i + 2]] == [row.token_ids.tolist() for row in alone]


def test_an_engine_that_holds_less_than_the_context_ends_a_row_with_its_reason() -> None:
    interface = toys.lm_session().interface
    dims = [replace(d, max=20) if d.name == "past" else d for d in interface.dims]
    pipeline = TextPipeline(ArraySession(toys.lm_function, interface.with_dims(dims)), toys.TEXT)
    (row,) = pipeline.generate("hello", max_new_tokens=30)
    assert (len(row.token_ids), row.finish_reason) == (16, "context")  # the last token is not read
    with pytest.raises(InputError, match="prompt 0 has 21 tokens, the context holds 21"):
        pipeline.generate("a" * 21)
    assert len(pipeline.generate("a" * 20)[0].token_ids) == 1
