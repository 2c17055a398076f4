"""The processing of logits against transformers' own processors, in the order in which `generate` applies them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from aigc_runtime.generation.logits import SamplingParams, process_logits

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

# Both sides compute in float64; only the order of the additions differs.
RELATIVE = 1e-12

GRID = [
    SamplingParams(temperature=t, top_k=k, top_p=p, repetition_penalty=r)
    for t, k, p, r in itertools.product((0.3, 1.0, 1.7), (0, 1, 40), (0.2, 0.9, 1.0), (0.8, 1.0, 1.3))
]


def theirs(logits: np.ndarray, ids: np.ndarray, params: SamplingParams) -> np.ndarray:
    """One row; built as `GenerationMixin._get_logits_processor` does."""
    processors = []
    if params.repetition_penalty != 1.0:
        processors.append(transformers.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.temperature != 1.0:
        processors.append(transformers.TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        processors.append(transformers.TopKLogitsWarper(params.top_k))
    if params.top_p < 1.0:
        processors.append(transformers.TopPLogitsWarper(params.top_p))
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    for process in processors:
        scores = process(torch.from_numpy(ids)[None], scores)
    return np.asarray(scores[0].numpy())


@pytest.mark.parametrize("vocab_size", [5, 256, 3000])
def test_every_combination(vocab_size: int) -> None:
    rng = np.random.default_rng(vocab_size)
    for params in GRID:
        logits = (4 * rng.standard_normal((3, vocab_size))).astype(np.float32)
        history = [rng.integers(0, vocab_size, size=n) for n in (1, 7, 50)]
        got = process_logits(logits, history, params)
        for row in range(3):
            expected = theirs(logits[row], history[row], params)
            np.testing.assert_array_equal(np.isfinite(got[row]), np.isfinite(expected), err_msg=str(params))
            np.testing.assert_allclose(got[row], expected, rtol=RELATIVE, err_msg=str(params))


def test_logits_that_are_excluded_already() -> None:
    logits = np.array([[-np.inf, 0.5, -np.inf, 1.0, -0.5]], dtype=np.float32)
    ids = np.array([0, 3])
    for params in GRID:
        expected = theirs(logits[0], ids, params)
        np.testing.assert_allclose(process_logits(logits, [ids], params)[0], expected, rtol=RELATIVE)


def test_another_order_of_the_steps_is_found_out() -> None:
    """Temperature after top-p keeps another set; the comparison must see it."""
    logits = np.log(np.array([[0.5, 0.25, 0.15, 0.1]], dtype=np.float32))
    ids = np.array([0])
    expected = theirs(logits[0], ids, SamplingParams(temperature=0.3, top_p=0.9))
    swapped = process_logits(logits, [ids], SamplingParams(temperature=1.0, top_p=0.9)) / 0.3
    assert np.isfinite(swapped[0]).sum() != np.isfinite(expected).sum()
