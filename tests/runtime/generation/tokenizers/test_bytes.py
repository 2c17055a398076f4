"""Text to ids and back, whole and byte by byte; Python's own codec is the reference."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest

from aigc_runtime.errors import InputError
from aigc_runtime.generation.tokenizers import ByteTokenizer, StreamDecoder
from aigc_runtime.generation.tokenizers import bytes as byte_tokenizer

# One to four bytes a character, a combining accent, a joined emoji, right-to-left, a byte order mark, NUL.
TEXTS = ["", "plain", "naïve", "日本語", "👩‍🚀 🎉", "e\u0301", "שלום", "\ufeffx", "a\x00b\r\n\t"]


def pieces(stream: StreamDecoder, ids: list[int]) -> list[str]:
    return [*(stream.feed(i) for i in ids), stream.finish()]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_the_utf8_bytes_and_come_back(text: str) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert ids.ndim == 1
    assert ids.tolist() == list(text.encode("utf-8"))
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_gives_whole_characters_as_soon_as_they_are_whole(text: str) -> None:
    told = pieces(ByteTokenizer().stream(), list(text.encode()))
    expected = []
    for character in text:
        expected += [""] * (len(character.encode()) - 1) + [character]
    assert told == [*expected, ""]


@pytest.mark.parametrize(
    "data", [b"\xff", b"a\xc3", b"\xe2\x82", b"\xe2\x82A", b"\x80\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf0\x9f\x98"]
)
def test_bytes_that_are_not_utf8_become_the_replacement_character(data: bytes) -> None:
    expected = data.decode("utf-8", errors="replace")
    assert "\ufffd" in expected
    assert ByteTokenizer().decode(np.frombuffer(data, dtype=np.uint8)) == expected
    assert "".join(pieces(ByteTokenizer().stream(), list(data))) == expected


def test_a_stream_equals_decode_on_any_bytes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        ids = rng.integers(0, 256, size=int(rng.integers(0, 40)))
        expected = bytes(ids.tolist()).decode("utf-8", errors="replace")
        assert "".join(pieces(ByteTokenizer().stream(), ids.tolist())) == expected
        assert ByteTokenizer().decode(ids) == expected


def test_streams_are_independent() -> None:
    tokenizer = ByteTokenizer()
    a, b = tokenizer.stream(), tokenizer.stream()
    assert (a.feed(0xC3), b.feed(0x41), a.feed(0xA9)) == ("", "A", "é")


def test_special_ids_stand_for_no_text() -> None:
    tokenizer = ByteTokenizer(bos=256, special=[300, 256])
    assert tokenizer.vocab_size == 301
    assert tokenizer.encode("é").tolist() == [256, 0xC3, 0xA9]
    assert tokenizer.encode("").tolist() == [256]
    assert tokenizer.decode(np.array([256, 256, 0xC3, 0xA9, 300])) == "é"
    assert pieces(tokenizer.stream(), [256, 0x41, 300]) == ["", "A", "", ""]


def test_sizes_of_vocabularies() -> None:
    assert ByteTokenizer().vocab_size == 256
    assert ByteTokenizer(special=[256]).vocab_size == 257
    assert ByteTokenizer(special=[256]).encode("a").tolist() == [97]


@pytest.mark.parametrize("bad", [-1, 256, 2**40])
def test_ids_that_stand_for_nothing(bad: int) -> None:
    with pytest.raises(InputError, match=f"token id {bad} stands for nothing\nneed 0 to 255$"):
        ByteTokenizer().decode(np.array([65, bad]))
    with pytest.raises(InputError, match=f"token id {bad} stands for nothing"):
        ByteTokenizer().stream().feed(bad)
    with pytest.raises(InputError, match="token id 257 stands for nothing\nneed 0 to 255 or one of 256, 258"):
        ByteTokenizer(bos=258, special=[256]).decode(np.array([257]))


@pytest.mark.parametrize("ids", [np.array([65.0]), np.array([[65]]), np.array([True])])
def test_ids_that_are_not_integers_in_a_row(ids: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"ids of dtype .*\nneed integers \[n\]"):
        ByteTokenizer().decode(ids)


def test_no_ids_of_any_type_are_no_text() -> None:
    assert ByteTokenizer().decode(np.array([])) == ""


def test_a_lone_surrogate_cannot_be_encoded() -> None:
    with pytest.raises(InputError, match="cannot be written as UTF-8: surrogates not allowed at position 2\nremove"):
        ByteTokenizer().encode("ab\ud800")


@pytest.mark.parametrize("bad", [255, -1, True, 256.0, "256", 2**31])
def test_bad_special_ids(bad: Any) -> None:
    with pytest.raises(InputError, match=r"a special id is .*\nmust be an integer from 256 to"):
        ByteTokenizer(special=[bad])
    with pytest.raises(InputError, match=r"bos is .*\nmust be an integer from 256 to"):
        ByteTokenizer(bos=bad)


def test_what_a_text_begins_with_can_be_left_out() -> None:
    assert ByteTokenizer(bos=256).encode("h", add_special_tokens=False).tolist() == [104]


def test_ids_of_a_padded_vocabulary_stand_for_no_text() -> None:
    tokenizer = ByteTokenizer(padded_to=300)
    assert tokenizer.vocab_size == 256
    assert tokenizer.decode(np.array([65, 299, 66])) == "AB"
    with pytest.raises(InputError, match="token id 300 stands for nothing"):
        tokenizer.decode(np.array([300]))


def test_a_stream_completes_a_character_that_the_prompt_begins() -> None:
    assert pieces(ByteTokenizer().stream(np.array([65, 0xC3])), [0xA9]) == ["é", ""]


def test_doctests() -> None:
    results = doctest.testmod(byte_tokenizer)
    assert results.attempted
    assert not results.failed
