"""Perplexity, divergence and agreement against transformers' loss and torch's own distributions."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch.distributions import Categorical, kl_divergence

from aigc_models.evaluation.metrics import Logits
from aigc_models.evaluation.side_by_side import WORST, remembered, score_side_by_side, weighted_mean
from aigc_models.evaluation.windows import Windows
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError

V = 50
RNG = np.random.default_rng(0)


def windows(lengths: list[int], longest: int = 12) -> Windows:
    ids = RNG.integers(0, V, (len(lengths), longest + 1))
    counts = np.array(lengths, dtype=np.int64)
    return Windows(ids=ids, lengths=counts, text_bytes=counts)


def of_table(table: Array, *, most: int = 100) -> Logits:
    """Logits that depend on the last token alone, in pieces."""

    def run(ids: Array) -> Iterator[Array]:
        for start in range(0, ids.shape[1], most):
            yield table[ids[:, start : start + most]]

    return run


def test_transformers_says_the_same() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    made: Any = LlamaForCausalLM(config)
    model = made.eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
        other.lm_head.weight.mul_(20).add_(0.3 * torch.randn_like(other.lm_head.weight))
    found = windows([12, 7, 1, 12, 5])

    def logits(net: Any) -> Logits:
        def run(ids: Array) -> list[Array]:
            with torch.no_grad():
                return [net(torch.from_numpy(ids)).logits.numpy()]

        return run

    scores = score_side_by_side(logits(model), logits(other), found, batch=2)
    ids = torch.from_numpy(found.ids)
    counted = torch.from_numpy(found.counted)
    labels = ids.clone()
    labels[:, 1:][~counted] = -100
    with torch.no_grad():
        # Its loss is a mean over all labels that count.
        losses = [net(ids, labels=labels).loss.item() for net in (model, other)]
        p, q = (Categorical(logits=net(ids[:, :-1]).logits.double()) for net in (model, other))
    assert scores.reference_nats.sum() / scores.lengths.sum() == pytest.approx(losses[0], rel=1e-5)
    assert scores.nats.sum() / scores.lengths.sum() == pytest.approx(losses[1], rel=1e-5)
    assert losses[1] > losses[0] + 0.01
    divergence = (kl_divergence(p, q) * counted).sum(1)
    np.testing.assert_allclose(scores.kl, divergence.numpy(), rtol=1e-5)
    agreeing = ((p.logits.argmax(-1) == q.logits.argmax(-1)) & counted).sum(1)
    assert scores.agreeing.tolist() == agreeing.tolist()
    assert 0 < scores.agreeing.sum() < scores.lengths.sum()


@pytest.mark.parametrize(("mine", "theirs", "batch"), [(1, 1, 1), (5, 3, 2), (3, 5, 7), (12, 4, 3), (100, 1, 16)])
def test_pieces_and_batches_change_nothing(mine: int, theirs: int, batch: int) -> None:
    a, b, found = RNG.standard_normal((V, V)) * 4, RNG.standard_normal((V, V)) * 4, windows([12, 3, 9, 12])
    scores = score_side_by_side(of_table(a, most=mine), of_table(b, most=theirs), found, batch=batch)
    log_p, log_q = (log_softmax(table, axis=1)[found.ids[:, :-1]] for table in (a, b))
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    np.testing.assert_allclose(scores.kl, np.where(found.counted, kl, 0).sum(1), rtol=1e-10)
    target = np.take_along_axis(log_q, found.ids[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(scores.nats, -np.where(found.counted, target, 0).sum(1), rtol=1e-10)


def test_a_side_beside_itself_and_what_is_behind_a_window_do_not_count() -> None:
    table, found = RNG.standard_normal((V, V)), windows([4, 4])
    scores = score_side_by_side(of_table(table), of_table(table), found, batch=2)
    assert scores.kl.tolist() == [0.0, 0.0]
    assert scores.agreeing.tolist() == [4.0, 4.0]
    ids = found.ids.copy()
    ids[:, 5:] = 7
    again = score_side_by_side(
        of_table(table), of_table(table), Windows(ids=ids, lengths=found.lengths, text_bytes=found.lengths), batch=2
    )
    assert again.nats.tolist() == scores.nats.tolist()


def test_excluded_tokens_and_broken_logits() -> None:
    found = windows([12, 12])
    a = RNG.standard_normal((V, V))
    padded = np.concatenate([a, np.full((V, 3), -np.inf)], axis=1)
    scores = score_side_by_side(of_table(padded), of_table(padded), found, batch=2)
    assert scores.kl.tolist() == [0.0, 0.0]
    # The candidate excludes what the reference does not, or gives no numbers: the worst there is, and finite.
    for bad in (
        np.where(np.arange(V) == 0, -np.inf, a),
        np.where(np.arange(V) == 0, np.nan, a),
        np.full((V, V), np.inf),
    ):
        scores = score_side_by_side(of_table(a), of_table(bad), found, batch=2)
        assert (scores.kl >= WORST).all()
        assert np.isfinite(scores.kl).all()
    assert scores.agreeing.tolist() == [0.0, 0.0]
    with pytest.raises(EngineError, match="logits of 5 places of 12"):
        score_side_by_side(of_table(a), lambda ids: [a[ids[:, :5]]], found, batch=2)


def test_a_side_is_remembered_as_far_as_there_is_room() -> None:
    table, calls = RNG.standard_normal((V, V)), []

    def counting(ids: Array) -> Iterator[Array]:
        calls.append(len(ids))
        yield from of_table(table, most=5)(ids)

    found, whole = windows([12] * 6), 2 * 12 * V
    for most, expected in ((3 * whole, 3), (2 * whole, 4), (whole - 1, 6)):
        calls.clear()
        kept = remembered(counting, most=most)
        both = [score_side_by_side(kept, of_table(table), found, batch=2) for _ in range(2)]
        assert both[0].kl.tolist() == both[1].kl.tolist() == [0.0] * 6
        assert len(calls) == expected


def test_the_error_of_a_mean_is_that_of_resampled_windows() -> None:
    lengths = RNG.integers(1, 200, 400).astype(float)
    sums = lengths * RNG.standard_normal(400) * 0.1 + 0.7 * lengths
    mean, error = weighted_mean(sums, lengths)
    picks = RNG.integers(0, 400, (4000, 400))
    resampled = sums[picks].sum(1) / lengths[picks].sum(1)  # the bootstrap (Efron 1979)
    assert mean == pytest.approx(sums.sum() / lengths.sum())
    assert error == pytest.approx(resampled.std(), rel=0.1)
    # Of windows of one length it is the error of a mean.
    values = RNG.standard_normal(50)
    assert weighted_mean(values * 9, np.full(50, 9.0))[1] == pytest.approx(values.std(ddof=1) / np.sqrt(50))
