"""The processing of logits against transformers' own processors, in the order in which `generate` applies them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from aigc_runtime.generation.history import TokenHistory
from aigc_runtime.generation.logits import process_logits
from aigc_runtime.generation.sampling_params import SamplingParams

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

# Both sides compute in float64; only the order of the additions differs.
RELATIVE = 1e-12
EOS = (1, 3)
PROMPT = 4
"""Tokens of a history that are its prompt."""

DRAWS: list[dict[str, Any]] = [
    {"temperature": t, "top_k": k, "top_p": p, "min_p": m, "typical_p": y}
    for t, k, p, m, y in itertools.product((0.3, 1.7), (0, 1, 40), (0.2, 0.9, 1.0), (0.0, 0.2), (0.3, 1.0))
]
CHANGES: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 0.8},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3, "min_new_tokens": 4},
    {"min_new_tokens": 3, "suppress_tokens": (0, 2)},
    {"begin_suppress_tokens": (2, 4)},
    {"sequence_bias": (((4,), 2.5), ((2, 0), -3.0), ((1, 2, 0), 1.5)), "repetition_penalty": 1.1},
    {"bad_words_ids": ((3,), (4,), (2, 1), (0, 1, 2))},
]
GRID = [
    SamplingParams(**draw, **CHANGES[i % len(CHANGES)])
    for i, draw in enumerate([*DRAWS, *[{"temperature": 1.0}] * len(CHANGES)])
]


def processors_of(params: SamplingParams) -> Any:
    """What `GenerationMixin._get_logits_processor` makes of a configuration with the same options."""
    config = transformers.GenerationConfig(
        do_sample=True,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p or None,
        typical_p=params.typical_p,
        repetition_penalty=params.repetition_penalty,
        no_repeat_ngram_size=params.no_repeat_ngram_size,
        min_new_tokens=params.min_new_tokens,
        eos_token_id=list(EOS),
        suppress_tokens=list(params.suppress_tokens) or None,
        begin_suppress_tokens=list(params.begin_suppress_tokens) or None,
        sequence_bias=[[list(ids), bias] for ids, bias in params.sequence_bias] or None,
        bad_words_ids=[list(ids) for ids in params.bad_words_ids] or None,
    )
    config._eos_token_tensor = torch.tensor(EOS)

    class Owner(transformers.GenerationMixin):  # type: ignore[misc]
        config = transformers.PretrainedConfig(is_encoder_decoder=False)

    return Owner()._get_logits_processor(config, input_ids_seq_length=PROMPT, device="cpu")


def theirs(logits: np.ndarray, ids: np.ndarray, params: SamplingParams) -> np.ndarray:
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    return np.asarray(processors_of(params)(torch.from_numpy(ids)[None], scores)[0].numpy())


def history_of(ids: np.ndarray) -> TokenHistory:
    history = TokenHistory(ids[:PROMPT])
    for token in ids[PROMPT:]:
        history.append(int(token))
    return history


def ours(logits: np.ndarray, ids: np.ndarray, params: SamplingParams) -> np.ndarray:
    return np.asarray(process_logits(logits[None], [history_of(ids)], params, EOS)[0])


def rows_of(vocab_size: int, params: SamplingParams) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(vocab_size)
    for length in (PROMPT, 7, 30):
        # Few different tokens, so that n-grams and biased sequences occur.
        yield (4 * rng.standard_normal(vocab_size)).astype(np.float32), rng.integers(0, 5, size=length)


@pytest.mark.parametrize("vocab_size", [12, 256, 3000])
def test_every_combination(vocab_size: int) -> None:
    changed = 0
    for params in GRID:
        for logits, ids in rows_of(vocab_size, params):
            got, expected = ours(logits, ids, params), theirs(logits, ids, params)
            np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected), err_msg=str(params))
            np.testing.assert_allclose(got, expected, rtol=RELATIVE, err_msg=str(params))
            changed += params.changes_logits
    assert changed > len(GRID)


@pytest.mark.parametrize("change", [c for c in CHANGES if c], ids=lambda change: "+".join(change))
def test_the_comparison_sees_every_option(change: dict[str, Any]) -> None:
    with_it, without = SamplingParams(temperature=1.0, **change), SamplingParams(temperature=1.0)
    rows = list(rows_of(256, with_it))
    assert any((theirs(logits, ids, with_it) != ours(logits, ids, without)).any() for logits, ids in rows)


def test_logits_that_are_excluded_already() -> None:
    logits = np.array([-np.inf, 0.5, -np.inf, 1.0, -0.5], dtype=np.float32)
    ids = np.array([0, 3, 3, 3])
    for params in (SamplingParams(**draw) for draw in DRAWS):
        np.testing.assert_allclose(ours(logits, ids, params), theirs(logits, ids, params), rtol=RELATIVE)


def test_another_order_of_the_steps_is_found_out() -> None:
    """Temperature after top-p keeps another set; the comparison must see it."""
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1, 1e-9], dtype=np.float32))
    ids = np.array([0])
    expected = theirs(logits, ids, SamplingParams(temperature=0.3, top_p=0.9))
    swapped = ours(logits, ids, SamplingParams(temperature=1.0, top_p=0.9)) / 0.3
    assert np.isfinite(swapped).sum() != np.isfinite(expected).sum()


@pytest.mark.parametrize("vocab_size", [70, 3000])
def test_penalties_of_what_was_generated_by_their_formula(vocab_size: int) -> None:
    """OpenAI's: mu[j] - c[j] * frequency_penalty - float(c[j] > 0) * presence_penalty; c counts no prompt (vLLM)."""
    for logits, ids in rows_of(vocab_size, SamplingParams()):
        params = SamplingParams(frequency_penalty=0.7, presence_penalty=-0.4)
        counts = [int((ids[PROMPT:] == token).sum()) for token in range(vocab_size)]
        expected = [float(mu) - c * 0.7 - float(c > 0) * -0.4 for mu, c in zip(logits, counts, strict=True)]
        np.testing.assert_allclose(ours(logits, ids, params), expected, rtol=RELATIVE)


def test_what_generation_already_counted_follows_the_repetition_penalty() -> None:
    ids = np.array([0, 0, 0, 0, 2])
    params = SamplingParams(repetition_penalty=2.0, presence_penalty=1.0, no_repeat_ngram_size=2)
    assert ours(np.array([4.0, 4.0, 4.0, 4.0], dtype=np.float32), ids, params).tolist() == [2.0, 4.0, 1.0, 4.0]
