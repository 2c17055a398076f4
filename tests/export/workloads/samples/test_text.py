"""Windows of a text: real tokens, a prompt and tokens behind it, all of the text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_function import Feeds, opened_when_called
from aigc_export.workloads.samples.text import TextData
from aigc_runtime.core.tensors import Array

from ..families import check_same_again, text_graph, text_settings, text_subject

TOKENS = np.arange(3000) % 251
INTERFACE, SETTINGS = text_subject().interface, text_settings()


def test_the_same_again_other_seeds_others_and_as_many_as_told() -> None:
    check_same_again(
        lambda seed: TextData(interface=INTERFACE, settings=SETTINGS, tokens=TOKENS, samples=24, seed=seed),
        text_graph(),
        samples=24,
        rows=48,
    )


def test_none_of_no_samples() -> None:
    with pytest.raises(CalibrationError, match="samples is 0"):
        TextData(interface=INTERFACE, settings=SETTINGS, tokens=TOKENS, samples=0)


def test_a_window_is_a_prompt_and_tokens_behind_a_filled_cache() -> None:
    data = TextData(
        interface=INTERFACE, settings=SETTINGS, tokens=TOKENS, samples=5, length=40, decode_steps=3, batch=2
    )
    batches = list(data.batches(opened_when_called(text_graph())))
    assert (data.window, data.rows, len(batches)) == (40, 20, 12)
    shapes = [(b["input_ids"].shape, b["past_key"].shape) for b in batches[:4]]
    assert shapes == [((2, 37), (2, 0, 1)), ((2, 1), (2, 37, 1)), ((2, 1), (2, 38, 1)), ((2, 1), (2, 39, 1))]
    for first in range(0, 12, 4):
        last = batches[first + 3]
        window = np.concatenate([last["past_key"][:, :, 0].astype(np.int64), last["input_ids"]], axis=1)
        assert (np.diff(window, axis=1) % 251 == 1).all()  # 40 tokens of the text, in order
        np.testing.assert_array_equal(batches[first]["input_ids"], window[:, :37])
    assert all((b["pad_length"] == 0).all() for b in batches)
    assert all(b["logits_to_keep"].tolist() == list(range(b["input_ids"].shape[1])) for b in batches)


def test_the_first_token_of_a_window_counts_more_and_tokens_behind_a_cache_do_not() -> None:
    data = TextData(
        interface=INTERFACE, settings=SETTINGS, tokens=TOKENS, samples=4, length=40, decode_steps=2, batch=2
    )
    prompt, *steps = list(data.batches(opened_when_called(text_graph())))[:3]
    weights = data.row_weights(prompt)
    assert weights is not None
    assert weights.shape == prompt["input_ids"].shape == (2, 38)
    assert weights[:, 0].tolist() == [2.5, 2.5]  # a sixteenth of 40
    assert (weights[:, 1:] == 1).all()
    assert [data.row_weights(feeds) for feeds in steps] == [None, None]


def test_the_first_token_of_a_short_window_counts_once() -> None:
    data = TextData(interface=INTERFACE, settings=SETTINGS, tokens=TOKENS, samples=4, length=10, decode_steps=0)
    weights = data.row_weights({"input_ids": np.zeros((2, 10), dtype=np.int64)})
    assert weights is not None
    assert (weights == 1).all()


def never_called(_: Feeds) -> dict[str, Array]:
    pytest.fail("the graph runs, and nothing needs its results")


def test_choices_are_judged_on_more_and_shorter_windows() -> None:
    settings = text_settings(1024)
    interface = text_subject(1024).interface
    data = TextData(interface=interface, settings=settings, tokens=TOKENS, samples=6, length=400, decode_steps=1)
    short = data.short_rows()
    assert (data.window, short.window) == (400, 128)
    assert (data.rows, short.rows) == (12, 18)
    shapes = [feeds["input_ids"].shape for feeds in short.batches(never_called)]
    assert shapes == [(4, 128)] * 4 + [(2, 128)]
    assert short.short_rows() is short
    assert replace(data, length=200).short_rows().window == 200
    more = replace(data, samples=48).short_rows()  # with enough of them for many batches, a run takes twice as many
    assert next(iter(more.batches(never_called)))["input_ids"].shape == (8, 128)
    assert next(iter(replace(data, batch=2).short_rows().batches(never_called)))["input_ids"].shape == (2, 128)


def test_the_last_tokens_of_a_window_are_not_read_to_be_recorded() -> None:
    data = TextData(interface=INTERFACE, settings=SETTINGS, tokens=TOKENS, samples=4, length=10, decode_steps=2)
    read, run = [], opened_when_called(text_graph())

    def reading(feeds: Feeds) -> dict[str, Array]:
        read.append(feeds["input_ids"].shape)
        return run(feeds)

    shapes = [feeds["input_ids"].shape for feeds in data.batches(reading)]
    assert shapes == [(4, 8), (4, 1), (4, 1)]
    assert read == shapes[:-1]


def test_windows_cover_the_text() -> None:
    tokens = np.minimum(np.arange(200_000) // 1000, 255)
    data = TextData(interface=INTERFACE, settings=SETTINGS, tokens=tokens, samples=50, length=8)
    starts = np.concatenate(
        [b["input_ids"][:, 0] for b in data.batches(opened_when_called(text_graph())) if b["input_ids"].shape[1] > 1]
    )
    assert np.diff(np.sort(starts)).max() <= 8  # of 200 stretches, one window in every four
    assert abs(int(starts[::2].astype(int).sum()) - int(starts[1::2].astype(int).sum())) < 25 * 8  # and so both halves


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.arange(100) % 9, "has 100 tokens"),
        (np.zeros(3000, np.int64), "one token over and over"),
        (np.arange(3000), "token ids from 0 to 2999"),
    ],
)
def test_text_that_cannot_be_used(tokens: Array, message: str) -> None:
    with pytest.raises(CalibrationError, match=message) as caught:
        TextData(interface=INTERFACE, settings=SETTINGS, tokens=tokens)
    assert "expected text of at least 192 tokens from 0 to 255" in caught.value.hint


@pytest.mark.parametrize(("length", "most", "rows"), [(512, 64, 1), (100, 64, 5), (8, 64, 8), (8, 3, 3), (8, None, 8)])
def test_a_run_takes_few_tokens_and_no_more_rows_than_the_model(length: int, most: int | None, rows: int) -> None:
    dims = tuple(replace(dim, max=most) if dim.name == "batch" else replace(dim, max=None) for dim in INTERFACE.dims)
    data = TextData(
        interface=replace(INTERFACE, dims=dims),
        settings=replace(SETTINGS, context_length=1024),
        tokens=TOKENS,
        samples=9,
        length=length,
    )
    batches = list(data.batches(opened_when_called(text_graph())))
    assert max(len(batch["input_ids"]) for batch in batches) == rows
    assert sum(len(batch["input_ids"]) for batch in batches) == data.rows == 18
