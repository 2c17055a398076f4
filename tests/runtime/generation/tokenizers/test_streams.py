"""What streams of unusual decoders tell, and that cleaning up piece by piece is cleaning up the whole."""

from __future__ import annotations

import doctest
import json
from collections.abc import Callable
from typing import Any

import pytest

from aigc_runtime.generation.tokenizers import streams
from aigc_runtime.generation.tokenizers.streams import SpaceCleaner, Stream, clean_up, make_stream

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

tokenizers: Any = pytest.importorskip("tokenizers")
decoders = tokenizers.decoders

WORDS = ["▁a", "b", "▁", "<0xE6>", "<0x97>", "<0xA5>", "▁▁c", "</w>", "d</w>", "##e", " f", ".", "Ġg", "é", "Ã", "©"]

SPACES = decoders.Replace("▁", " ")
DECODERS: dict[str, Any] = {
    "none": None,
    "metaspace": decoders.Metaspace(),
    "word-piece": decoders.WordPiece(cleanup=True),
    "bpe": decoders.BPEDecoder(suffix="</w>"),
    "bytes": decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()]),
    "left": decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 2, 0)]
    ),
    "right": decoders.Sequence([SPACES, decoders.Fuse(), decoders.Strip(" ", 0, 1)]),
    "pattern": decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "x")]),
    "byte-level": decoders.ByteLevel(),
    "repeats": decoders.CTC(),
}


def opened(name: str) -> tuple[Stream, Callable[[list[int]], str]]:
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="▁")
    )
    if DECODERS[name] is not None:
        tokenizer.decoder = DECODERS[name]

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids)) if ids else ""

    decoder = json.loads(tokenizer.to_str())["decoder"]
    return make_stream(decoder, decode=decode, token=tokenizer.id_to_token), decode


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(list(DECODERS)), st.lists(st.integers(0, len(WORDS) - 1), max_size=14), st.integers(0, 14))
def test_a_stream_of_any_decoder_joins_to_the_whole(name: str, ids: list[int], after: int) -> None:
    stream, decode = opened(name)
    stream.start(ids[:after])
    told = "".join(map(stream.feed, ids[after:])) + stream.finish()
    assert decode(ids).endswith(told)
    if not after:
        assert told == decode(ids)


class _Pieces:
    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def start(self, ids: list[int]) -> None:
        raise NotImplementedError

    def feed(self, token_id: int) -> str:
        return self.pieces[token_id]

    def finish(self) -> str:
        return ""


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([" ", "'", ".", "n", "t", "s", "'t", " ' ", "n't", ",", "ve", "a", "é"]), max_size=16))
def test_cleaning_up_piece_by_piece_is_cleaning_up_the_whole(pieces: list[str]) -> None:
    cleaner = SpaceCleaner(_Pieces(pieces))
    assert "".join(map(cleaner.feed, range(len(pieces)))) + cleaner.finish() == clean_up("".join(pieces))


def test_cleaned_text_is_told_word_by_word() -> None:
    cleaner = SpaceCleaner(_Pieces(["one", " two", " three", " ."]))
    assert [*map(cleaner.feed, range(4)), cleaner.finish()] == ["", "one", " two", " three", "."]


def test_doctests() -> None:
    assert doctest.testmod(streams).attempted
    assert not doctest.testmod(streams).failed


@pytest.mark.parametrize("name", ["right", "pattern", "repeats"])
def test_text_of_a_decoder_that_looks_ahead_is_told_at_the_end(name: str) -> None:
    stream, decode = opened(name)
    stream.start([])
    assert [stream.feed(0), stream.feed(1)] == ["", ""]
    assert stream.finish() == decode([0, 1])
