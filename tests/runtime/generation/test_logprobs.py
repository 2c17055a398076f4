"""Log probabilities against scipy-free arithmetic in higher precision."""

from __future__ import annotations

import math

import numpy as np

from aigc_runtime.generation.logprobs import log_softmax, top_logprobs


def test_the_log_softmax_of_large_and_small_logits() -> None:
    row = np.array([1000.0, 999.0, -1000.0, 1000.0], dtype=np.float32)
    total = 1000 + math.log(2 + math.exp(-1))
    np.testing.assert_allclose(log_softmax(row), [float(x) - total for x in row], rtol=1e-12)
    assert log_softmax(np.array([0.0, -np.inf]))[1] == -np.inf


def test_the_most_likely_tokens_come_first_and_the_lowest_ids_of_equals() -> None:
    row = np.array([0.0, 2.0, 1.0, 2.0, 1.0], dtype=np.float32)
    chosen, ids, values = top_logprobs(row, 4, 3)
    assert ids.tolist() == [1, 3, 2]
    np.testing.assert_allclose(values, log_softmax(row)[[1, 3, 2]])
    np.testing.assert_allclose(chosen, log_softmax(row)[4])
    chosen, ids, values = top_logprobs(row, 0, 0)
    assert (len(ids), len(values)) == (0, 0)
    assert top_logprobs(row, 0, 5)[1].tolist() == [1, 3, 2, 4, 0]
