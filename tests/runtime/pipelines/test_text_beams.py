"""Beam search over an engine against transformers' own `generate(num_beams=...)`, ids and scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.tensors import DimSpec
from aigc_runtime.errors import EngineError, InputError
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.pipelines.text import TextPipeline, TextResult

from .. import toys
from .test_text_vs_transformers import lm_function, make_session, reference_model

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

NEW = 6
PROMPTS = ["hello", "qrs"]


@pytest.fixture(scope="module")
def reference() -> Any:
    return reference_model()


def theirs(model: Any, prompt: str, count: int, eos: tuple[int, ...], **options: Any) -> list[tuple[list[int], float]]:
    ids = torch.tensor([list(prompt.encode())])
    config = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=NEW,
        eos_token_id=list(eos) or None,
        pad_token_id=0,
        use_cache=False,
        num_return_sequences=count,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    found = []
    for row, score in zip(out.sequences[:, ids.shape[1] :].tolist(), out.sequences_scores.tolist(), strict=True):
        end = next((i + 1 for i, token in enumerate(row) if token in eos), len(row))
        found.append((row[:end], score))
    return found


def ours(prompts: list[str], count: int, eos: tuple[int, ...], **options: Any) -> list[TextResult]:
    pipeline = TextPipeline(make_session(), replace(toys.TEXT, eos_token_ids=eos))
    return pipeline.generate(prompts, max_new_tokens=NEW, num_return_sequences=count, **options)


GRID: list[dict[str, Any]] = [
    {"num_beams": 4, "length_penalty": 0.0},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
    {"num_beams": 3, "length_penalty": 0.5, "early_stopping": "never"},
    {"num_beams": 5, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    {"num_beams": 3, "min_new_tokens": 2, "length_penalty": -1.0},
    {"num_beams": 8, "early_stopping": True},
]


@pytest.mark.parametrize("options", GRID, ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()))
@pytest.mark.parametrize("ends", [False, True], ids=["no-eos", "eos"])
def test_texts_and_scores_are_those_of_transformers(options: dict[str, Any], ends: bool, reference: Any) -> None:
    count = min(3, options["num_beams"])
    eos: tuple[int, ...] = ()
    if ends:  # tokens that beams give in their midst
        free = ours(PROMPTS, count, (), **options)
        eos = tuple({255, *(int(token) for row in free for token in row.token_ids[2:5])})
    found = ours(PROMPTS, count, eos, **options)
    ended = 0
    for i, prompt in enumerate(PROMPTS):
        expected = theirs(reference, prompt, count, eos, **options)
        rows = found[i * count : (i + 1) * count]
        assert [row.token_ids.tolist() for row in rows] == [tokens for tokens, _ in expected]
        for row, (_, score) in zip(rows, expected, strict=True):
            assert row.score == pytest.approx(score, rel=2e-6)
        for row in rows:
            assert row.finish_reason == ("eos" if row.token_ids[-1] in eos else "length")
            ended += row.finish_reason == "eos"
    assert (ended > 0) == ends


def test_the_comparison_sees_every_option(reference: Any) -> None:
    base = theirs(reference, "ab", 2, (), num_beams=4)
    for other in (
        {"num_beams": 4, "length_penalty": 0.5},
        {"num_beams": 4, "repetition_penalty": 3.0},
    ):
        rows = ours(["ab"], 2, (), **other)
        same = [
            row.token_ids.tolist() == tokens and row.score == pytest.approx(score, rel=1e-5)
            for row, (tokens, score) in zip(rows, base, strict=True)
        ]
        assert not all(same)


@pytest.mark.parametrize("dim", [DimSpec(name="batch", max=3), DimSpec(name="batch", min=6, max=6)])
def test_an_engine_of_other_rows_finds_the_same(dim: DimSpec) -> None:
    interface = make_session().interface
    dims = [dim if d.name == "batch" else d for d in interface.dims]
    pipeline = TextPipeline(ArraySession(lm_function, interface.with_dims(dims)), toys.TEXT)
    found = pipeline.generate(PROMPTS, max_new_tokens=NEW, num_beams=3)
    assert [row.token_ids.tolist() for row in found] == [
        row.token_ids.tolist() for row in ours(PROMPTS, 1, (), num_beams=3)
    ]


def test_a_stop_string_ends_a_beam() -> None:
    (free,) = ours(["ab"], 1, (), num_beams=3)
    letter = next(chr(token) for token in free.token_ids if 32 < token < 127)
    for row in ours(["ab"], 3, (), num_beams=3, stop=[letter]):
        assert letter not in row.text
        assert (row.finish_reason == "stop") == (ord(letter) in row.token_ids.tolist())


def test_the_context_ends_a_beam() -> None:
    (row,) = TextPipeline(make_session(), toys.TEXT).generate("b" * 29, num_beams=2)
    assert (len(row.token_ids), row.finish_reason) == (3, "context")


def test_a_search_that_is_cancelled_gives_its_best() -> None:
    asked = iter([False, False, False, True])
    rows = ours(["ab"], 2, (), num_beams=3, cancel=lambda: next(asked))
    assert [(len(row.token_ids), row.finish_reason) for row in rows] == [(3, "cancelled")] * 2
    assert rows[0].score is not None
    assert rows[1].score is not None
    assert rows[0].score >= rows[1].score
    rows = ours(["ab"], 2, (), num_beams=3, cancel=lambda: True)
    assert [(len(row.token_ids), row.finish_reason) for row in rows] == [(0, "cancelled")] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.5}, "num_beams is 2, temperature 0.5\na beam search draws nothing"),
        ({"num_return_sequences": 3}, "num_return_sequences is 3, num_beams 2"),
        ({"logprobs": 1}, "num_beams is 2, logprobs 1\na beam search gives the score"),
        ({"num_beams": 9}, "num_beams is 9\nthis engine takes at most 8 rows at once"),
    ],
)
def test_what_a_beam_search_cannot_do(options: dict[str, Any], message: str) -> None:
    pipeline = TextPipeline(make_session(), toys.TEXT)
    with pytest.raises(InputError) as caught:
        pipeline.generate("ab", **{"num_beams": 2, **options})
    assert message in str(caught.value)
    with pytest.raises(InputError, match="the text of a beam search is known at its end: use generate, or num_beams=1"):
        pipeline.stream("ab", num_beams=2)


def test_options_that_leave_fewer_texts_than_are_asked_for() -> None:
    banned = {"suppress_tokens": list(range(2, 256)), "max_new_tokens": 1, "num_beams": 4}
    pipeline = TextPipeline(make_session(), toys.TEXT)
    rows = pipeline.generate("ab", num_return_sequences=2, **banned)  # type: ignore[arg-type]
    assert {(*row.token_ids.tolist(), row.finish_reason) for row in rows} == {(0, "length"), (1, "length")}
    with pytest.raises(InputError, match="3 texts are requested, the sampling options leave 2\nban fewer tokens"):
        pipeline.generate("ab", num_return_sequences=3, **banned)  # type: ignore[arg-type]


def test_logits_that_are_not_finite() -> None:
    def function(values: Any) -> Any:
        return {**lm_function(values), "logits": np.full((len(values["input_ids"]), 1, 256), np.nan, np.float32)}

    pipeline = TextPipeline(ArraySession(function, make_session().interface), toys.TEXT)
    with pytest.raises(EngineError, match="row 0 has logits that are NaN"):
        pipeline.generate("ab", sampling=SamplingParams(num_beams=2))
