"""A conversation with SmolLM2 on its exported engine: each turn is what transformers says to all of it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from tests.real.conftest import Export
from tests.real.test_smollm2 import their_tokens, theirs

from aigc_runtime.opening import open_pipeline
from aigc_runtime.pipelines.chat import ChatSession
from aigc_runtime.pipelines.text import TextPipeline, TextResult

pytestmark = pytest.mark.real

QUESTIONS = ("What is the capital of France?", "And of Germany?", "Which one is larger?")
TOKENS = 24


def result_of(stream: Generator[str, None, TextResult]) -> TextResult:
    while True:
        try:
            next(stream)
        except StopIteration as end:
            result: TextResult = end.value
            return result


def prompt_of(tokenizer: Any, messages: Any) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def test_every_turn_is_transformers_own(smollm2: Path, export: Export) -> None:
    _, tokenizer = theirs(smollm2)
    with open_pipeline(export(smollm2, "fp32")) as pipeline:
        assert isinstance(pipeline, TextPipeline)
        chat = ChatSession(pipeline, system="Answer in one sentence.")
        for turn, question in enumerate(QUESTIONS):
            messages = [*chat.messages, {"role": "user", "content": question}]
            ids = prompt_of(tokenizer, messages)
            result = result_of(chat.send(question, max_new_tokens=TOKENS, temperature=0.0))
            assert result.prompt_tokens == len(ids)
            assert result.token_ids.tolist() == their_tokens(smollm2, ids, TOKENS)
            assert (chat.reused_tokens > 20) == (turn > 0)
        chat.messages[3:] = [{"role": "user", "content": "And of Spain?"}]
        ids = prompt_of(tokenizer, chat.messages)
        result = result_of(chat.reply(max_new_tokens=TOKENS, temperature=0.0))
        assert result.token_ids.tolist() == their_tokens(smollm2, ids, TOKENS)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 4, "length_penalty": 0.6, "early_stopping": True}])
def test_beams_are_transformers_own(options: dict[str, Any], smollm2: Path, export: Export) -> None:
    import torch

    model, tokenizer = theirs(smollm2)
    ids = tokenizer("Water boils at", return_tensors="pt")
    with torch.no_grad():
        found = model.generate(
            **ids, do_sample=False, max_new_tokens=16, return_dict_in_generate=True, output_scores=True, **options
        )
    with open_pipeline(export(smollm2, "fp32")) as pipeline:
        (row,) = pipeline.generate("Water boils at", max_new_tokens=16, temperature=0.0, **options)
    assert row.token_ids.tolist() == found.sequences[0, ids["input_ids"].shape[1] :].tolist()[: len(row.token_ids)]
    assert row.score == pytest.approx(float(found.sequences_scores[0]), abs=1e-3)
