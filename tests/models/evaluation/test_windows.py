"""Windows are tokens of real text, as the tokenizer begins one, none of it twice; little text gives few windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from aigc_models.data.documents import Document, plain_documents
from aigc_models.evaluation.windows import Windows, draw_texts, draw_tokens, draw_windows
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.generation.tokenizers import ByteTokenizer, HuggingFaceTokenizer, IdTokenizer

from ...runtime.generation.tokenizers.makers import byte_level, llama_like

PLAIN, WITH_BOS = HuggingFaceTokenizer(byte_level()), HuggingFaceTokenizer(byte_level(bos=True))
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog,",
    "naïve",
    "café,",
    "日本語のテキスト",
    "👩\u200d🚀",
    "def",
    "main(argv):",
]


def prose(words: int, seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    return " ".join(f"{WORDS[i]}{i * 7}" for i in rng.integers(0, len(WORDS), words)).encode()


def drawn(documents: Sequence[Document], tokenizer: Any = PLAIN, **changed: Any) -> Windows:
    return draw_windows(documents, tokenizer, **{"count": 20, "length": 24, "seed": 0, **changed})


def rows(windows: Windows) -> list[Array]:
    return [ids[: length + 1] for ids, length in zip(windows.ids, windows.lengths, strict=True)]


@pytest.mark.parametrize("tokenizer", [PLAIN, WITH_BOS, HuggingFaceTokenizer(llama_like())])
def test_a_window_is_text_of_a_document_from_a_word_on(tokenizer: HuggingFaceTokenizer) -> None:
    texts = [prose(3000, seed).decode() for seed in range(3)]
    windows = drawn(plain_documents(text.encode() for text in texts), tokenizer)
    assert windows.ids.shape == (20, 25)
    assert (windows.lengths == 24).all()
    assert windows.counted.all()
    begins = tokenizer.encode("")
    for ids, size in zip(windows.ids, windows.text_bytes, strict=True):
        assert ids[: len(begins)].tolist() == begins.tolist()  # BOS where it has one
        shown = tokenizer.decode(ids).rstrip("\ufffd")  # the last character may be cut
        assert any(f" {shown}" in text or text.startswith(shown) for text in texts)
        first = len(tokenizer.decode(ids[:1]).encode())
        assert size == pytest.approx(len(shown.encode()) - first, abs=3)


def test_no_text_is_drawn_twice_and_all_of_it_may_be() -> None:
    text = b" ".join(b"%06d" % i for i in range(4000))
    ids = rows(drawn(plain_documents([text]), count=10_000))
    numbers = [[int(word) for word in PLAIN.decode(row).split(" ") if len(word) == 6] for row in ids]
    firsts = [found[0] for found in numbers]
    assert firsts == sorted(set(firsts))
    assert (firsts[0], len(firsts) > 200) == (0, True)
    assert max(np.diff(firsts)) < 20
    some = [PLAIN.decode(row)[:6] for row in rows(drawn(plain_documents([text]), count=50, seed=3))]
    assert len(set(some)) == 50
    assert some == [PLAIN.decode(row)[:6] for row in rows(drawn(plain_documents([text]), count=50, seed=3))]
    assert some != [PLAIN.decode(row)[:6] for row in rows(drawn(plain_documents([text]), count=50, seed=4))]


def test_short_documents_are_windows_of_their_own_and_end_where_they_end() -> None:
    texts = [f"{WORDS[i % len(WORDS)]} number {i}" for i in range(30)]
    windows = drawn(plain_documents(text.encode() for text in texts), WITH_BOS, count=100)
    assert len(windows) == 30
    assert [WITH_BOS.decode(row) for row in rows(windows)] == texts
    assert windows.text_bytes.tolist() == [len(text.encode()) for text in texts]
    assert not windows.counted.all()
    longest = windows.lengths.max()
    assert windows.ids.shape == (30, longest + 1)
    assert (windows.ids[:, -1] == [row[-1] for row in rows(windows)]).all()


def test_a_rendered_chat_gets_no_special_tokens_but_its_own() -> None:
    chat = b"<|im_start|>user hi<|im_end|>"
    found = [
        row.tolist()
        for rendered in (False, True)
        for row in rows(drawn([Document(text=chat, is_rendered=rendered)] * 2, WITH_BOS))
    ]
    assert found[0] == found[1] == WITH_BOS.encode(chat.decode()).tolist()
    assert found[2] == found[3] == WITH_BOS.encode(chat.decode(), add_special_tokens=False).tolist()
    assert found[0][1:] == found[2]


def test_little_text_gives_shorter_windows() -> None:
    windows = drawn(plain_documents([prose(100)]), length=256)
    assert 8 <= len(windows) <= 16
    assert windows.lengths.max() < 256
    with pytest.raises(InputError, match="the text gives 1 windows of tokens to evaluate on"):
        drawn(plain_documents([b"one two"]))
    with pytest.raises(InputError, match="the text gives 0 windows"):
        drawn(plain_documents([b"a"] * 5))


@pytest.mark.parametrize("text", ["日本語のテキスト" * 3000, "x" * 20000, "\U0001f600" * 9000])
def test_text_without_spaces_is_cut_at_characters(text: str) -> None:
    for row in rows(drawn(plain_documents([text.encode()]))):
        assert PLAIN.decode(row).rstrip("\ufffd") in text


def test_work_does_not_grow_with_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = PLAIN.encode

    def counting(text: str, *, add_special_tokens: bool = True) -> Array:
        seen.append(len(text))
        return encode(text, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(PLAIN, "encode", counting)
    drawn(plain_documents([prose(5000) * 40]))
    assert (len(seen), max(seen) <= 16 * 25) == (20, True)
    seen.clear()
    assert len(draw_tokens(plain_documents([prose(5000) * 40]), PLAIN, count=10, length=24, seed=0)) >= 20 * 24
    assert len(seen) == 20


def test_a_model_over_bytes_reads_all_documents_as_one_text() -> None:
    documents, tokenizer = plain_documents([b"abc\xff", b"", b"de"]), ByteTokenizer(bos=256)
    assert draw_tokens(documents, tokenizer, count=1, length=2, seed=0).tolist() == [256, *b"abc\xff\nde"]
    windows = drawn(documents, tokenizer, count=50, length=5)
    assert windows.ids.shape == (50, 6)
    assert windows.text_bytes.tolist() == [5] * 50


def test_tokens_in_place_of_text() -> None:
    documents = [Document(ids=tuple(range(i * 100, i * 100 + 90))) for i in range(4)]
    windows = drawn(documents, IdTokenizer(400), length=9, count=16)
    assert windows.ids.shape == (16, 10)
    assert (np.diff(windows.ids, axis=1) == 1).all()
    assert windows.text_bytes.tolist() == [0] * 16


def test_texts_for_prompts() -> None:
    documents = plain_documents([prose(500), "日本語のテキスト".encode() * 30])
    texts = draw_texts(documents, count=6, size=10, seed=0)
    assert texts == draw_texts(documents, count=6, size=10, seed=0) != draw_texts(documents, count=6, size=10, seed=1)
    assert [len(text) for text in texts] == [10] * 6
    assert all(text in documents[0].text.decode() or text in documents[1].text.decode() for text in texts)
    assert draw_texts(plain_documents([b" \n" * 50]), count=2, size=10, seed=0) == ["a", "a"]
