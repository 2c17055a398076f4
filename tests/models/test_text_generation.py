"""Generation over real attention in PyTorch: chunks, kept state, rows and beams give what the whole text gives."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.families.rope import RopeConfig
from aigc_models.programs import lm_program
from aigc_models.torch_session import open_torch
from aigc_runtime.pipelines.text import TextPipeline
from aigc_runtime.pipelines.text_reading import Reading

CONTEXT = 48
PLAIN = LMConfig(vocab_size=256, context_length=CONTEXT, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24)
LONG = RopeConfig(
    scaling="longrope", factor=4.0, original_context=10, short_factors=(1.0, 1.1), long_factors=(1.5, 4.0)
)
CONFIGS = {
    "plain": PLAIN,
    "window": dataclasses.replace(PLAIN, window=7),
    "longrope": dataclasses.replace(PLAIN, rope=LONG),
}
PROMPTS = ["hello", "a", "the quick brown fox", "0123456789", "twenty characters xx"]
NEW = 12


class Subject:
    """A random model, its pipeline, and its logits over a whole text."""

    def __init__(self, name: str, cache: Any) -> None:
        torch.manual_seed(0)
        self.model = TransformerLM(CONFIGS[name]).eval()
        with torch.no_grad():  # sharper attention, so that a text depends on all of its tokens
            for weight in self.model.parameters():
                weight.mul_(3.0 if weight.dim() > 1 else 1.0)
        self.program = lm_program(self.model, cache=cache)
        self.settings = dataclasses.replace(self.program.settings, recompute_at=10 if name == "longrope" else None)
        self.pipeline = TextPipeline(open_torch(self.program), self.settings)

    @torch.no_grad()
    def logits(self, ids: list[int]) -> np.ndarray:
        return np.asarray(self.model(torch.tensor([ids])).logits[0].double().numpy())

    def greedy(self, prompt: str, count: int) -> list[int]:
        ids = list(prompt.encode("latin-1"))
        for _ in range(count):
            ids.append(int(self.logits(ids)[-1].argmax()))
        return ids[len(prompt) :]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["growing", "buffer"])
def cache(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=CONFIGS)
def subject(request: pytest.FixtureRequest, cache: str) -> Subject:
    return Subject(request.param, cache)


@pytest.mark.parametrize("chunk", [None, 6])
def test_chunks_and_ragged_rows_give_the_models_own_text(subject: Subject, chunk: int | None) -> None:
    found = subject.pipeline.generate(PROMPTS, max_new_tokens=NEW, prefill_chunk=chunk)
    assert [row.token_ids.tolist() for row in found] == [subject.greedy(prompt, NEW) for prompt in PROMPTS]


@pytest.mark.parametrize("tokens", [1, 5, 20])
def test_what_is_looked_up_gives_the_models_own_text(subject: Subject, tokens: int) -> None:
    """A prompt of its own text makes the model repeat what is held, for some tokens."""
    repeated = [*b"ab", *subject.greedy("ab", 14), *b"ab"]
    found = subject.pipeline.generate([*PROMPTS, repeated], max_new_tokens=2 * NEW, prompt_lookup_num_tokens=tokens)
    plain = subject.pipeline.generate(PROMPTS, max_new_tokens=2 * NEW)
    assert [r.token_ids.tolist() for r in found[:-1]] == [r.token_ids.tolist() for r in plain]
    assert [r.token_ids.tolist() for r in found[:-1]] == [subject.greedy(prompt, 2 * NEW) for prompt in PROMPTS]
    assert found[-1].token_ids.tolist() == subject.greedy(bytes(repeated).decode("latin-1"), 2 * NEW)


def test_each_row_has_all_of_its_context(subject: Subject) -> None:
    found = subject.pipeline.generate(PROMPTS[2:4], max_new_tokens=100)
    for prompt, row in zip(PROMPTS[2:4], found, strict=True):
        assert row.token_ids.tolist() == subject.greedy(prompt, CONTEXT - len(prompt))
        assert row.finish_reason == "context"


def test_a_state_that_is_cut_back_is_that_of_the_shorter_text(subject: Subject) -> None:
    reading = Reading(subject.pipeline.engines, np.zeros(1, dtype=np.int64))
    text = list(b"one two three four five six")
    reading.feed(np.array([text]))
    for length in (25, 14, 9, 3):
        reading.truncate(length)
        now = [*text[:length], *b"xyz"]
        logits = reading.feed(np.array([now[length:]]))
        assert logits is not None
        np.testing.assert_allclose(logits[0], subject.logits(now)[-1], atol=2e-5)
        reading.truncate(min(length, reading.length))


def test_beams_have_the_scores_of_their_texts(subject: Subject) -> None:
    for prompt in PROMPTS[:2]:
        found = subject.pipeline.generate(prompt, max_new_tokens=NEW, num_beams=3, num_return_sequences=3)
        scores = list[float]()
        for row in found:
            ids = [*prompt.encode(), *row.token_ids.tolist()]
            total = 0.0
            for at in range(len(prompt), len(ids)):
                logits = subject.logits(ids[:at])[-1]
                total += float(logits[ids[at]] - np.log(np.exp(logits).sum()))
            assert row.score == pytest.approx(total / NEW, abs=1e-4)
            scores.append(row.score or 0.0)
        assert all(first >= second for first, second in itertools.pairwise(scores))


def test_a_long_text_that_is_not_read_anew_has_other_logits() -> None:
    subject = Subject("longrope", "growing")
    for again, same in ((10, True), (None, False)):
        settings = dataclasses.replace(subject.settings, recompute_at=again)
        pipeline = TextPipeline(open_torch(subject.program), settings)
        (row,) = pipeline.generate("hello", max_new_tokens=12, logprobs=0)
        logits = subject.logits([*b"hello", *row.token_ids.tolist()])[4:-1]
        expected = logits[range(12), row.token_ids] - np.log(np.exp(logits).sum(axis=1))
        assert row.logprobs is not None
        # Only up to where a fresh text of that length has the short angles are the logits of the whole text others.
        far = np.abs(row.logprobs.chosen - expected)[6:]
        assert (far.max() < 1e-3) == same
