"""Tokenizers of files against transformers over the same file; streams against the whole decode; bad files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.errors import BundleError, InputError
from aigc_runtime.generation.tokenizers import HuggingFaceTokenizer
from aigc_runtime.generation.tokenizers import huggingface as module

from .makers import MAKERS, byte_level, word_piece

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

transformers: Any = pytest.importorskip("transformers")

TEXTS = [
    "",
    " ",
    "plain text",
    "  two spaces,\ttabs\n\nand lines \r\n",
    "naïve e\u0301 Ärger",
    "日本語 👩‍🚀 🎉 🏳️‍🌈",
    "שלום عربي",
    "a<|im_start|>b</s>c<s> [SEP]",
    "\x00\x07 \ufeff\u200b\u2028",
    "12345678901234567890",
    "x" * 300,
    "it 's do n't . ok , yes !",
]


def _transformers(**arguments: Any) -> Any:
    return transformers.PreTrainedTokenizerFast(**arguments)


@pytest.fixture(scope="module", params=list(MAKERS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[HuggingFaceTokenizer, Any]:
    data = MAKERS[request.param]()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(data)
    return HuggingFaceTokenizer(data), _transformers(tokenizer_file=str(path))


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_texts_are_those_of_transformers(pair: tuple[HuggingFaceTokenizer, Any], text: str) -> None:
    ours, theirs = pair
    for special in (True, False):
        ids = ours.encode(text, add_special_tokens=special)
        assert ids.dtype == np.int64
        assert ids.tolist() == theirs.encode(text, add_special_tokens=special)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.vocab_size == len(theirs)


def test_a_vocabulary_with_holes_is_as_large_as_its_largest_id_says() -> None:
    file = json.loads(byte_level())
    vocabulary = file["model"]["vocab"]
    assert HuggingFaceTokenizer(byte_level()).vocab_size == len(vocabulary)
    last = max(vocabulary, key=vocabulary.get)
    vocabulary[last] += 7
    assert HuggingFaceTokenizer(json.dumps(file).encode()).vocab_size == len(vocabulary) + 7


@pytest.mark.parametrize("make", [byte_level, word_piece])
def test_spaces_are_cleaned_up_as_transformers_does(make: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(make())
    theirs = _transformers(tokenizer_file=str(tmp_path / "tokenizer.json"), clean_up_tokenization_spaces=True)
    ours = HuggingFaceTokenizer(make(), clean_up_spaces=True)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        stream = ours.stream()
        assert "".join(map(stream.feed, ids.tolist())) + stream.finish() == ours.decode(ids)


def streamed(tokenizer: HuggingFaceTokenizer, ids: list[int], after: int = 0) -> list[str]:
    stream = tokenizer.stream(np.array(ids[:after], dtype=np.int64))
    return [*(stream.feed(i) for i in ids[after:]), stream.finish()]


@pytest.mark.parametrize("text", [text for text in TEXTS if text])
def test_a_stream_joins_to_the_whole(pair: tuple[HuggingFaceTokenizer, Any], text: str) -> None:
    ours, _ = pair
    ids = ours.encode(text).tolist()
    for end in range(min(len(ids), 40) + 1):
        assert "".join(streamed(ours, ids[:end])) == ours.decode(np.array(ids[:end]))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(list(MAKERS)), cleaned=st.booleans())
def test_a_stream_of_any_ids_joins_to_the_whole(data: st.DataObject, kind: str, cleaned: bool) -> None:
    ours = HuggingFaceTokenizer(MAKERS[kind](), clean_up_spaces=cleaned)
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size + 3), max_size=24))
    assert "".join(streamed(ours, ids)) == ours.decode(np.array(ids, dtype=np.int64))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(list(MAKERS)), text=st.text(max_size=20))
def test_a_stream_behind_a_prompt_tells_what_comes_after_it(data: st.DataObject, kind: str, text: str) -> None:
    ours = HuggingFaceTokenizer(MAKERS[kind]())
    ids = ours.encode(text).tolist()
    after = data.draw(st.integers(0, len(ids)))
    before, whole = ours.decode(np.array(ids[:after])), ours.decode(np.array(ids))
    told = "".join(streamed(ours, ids, after))
    # Characters that the prompt only begins are told with what completes them.
    assert whole.startswith(before.rstrip("\ufffd"))
    assert whole.endswith(told)
    assert len(whole) - len(told) <= len(before)


def test_no_piece_ends_within_a_character() -> None:
    ours = HuggingFaceTokenizer(byte_level())
    text = "👩‍🚀é日本"
    ids = ours.encode(text).tolist()
    assert len(ids) > len(text)
    told = streamed(ours, ids)
    assert "".join(told) == text
    assert not any("\ufffd" in piece for piece in told)


def test_a_bos_is_as_the_files_post_processor_says() -> None:
    ours = HuggingFaceTokenizer(byte_level(bos=True))
    assert ours.encode("a").tolist()[0] == 1
    assert ours.encode("a", add_special_tokens=False).tolist() == ours.encode("a").tolist()[1:]
    assert ours.token(1) == "<|im_start|>"
    assert (ours.token(10**6), ours.token(-1), ours.token(2**40)) == (None, None, None)
    assert (ours.id_of("<|im_start|>"), ours.id_of("nothing like it")) == (1, None)


def test_a_file_that_cuts_or_fills_texts_does_neither() -> None:
    value = json.loads(byte_level())
    value["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    value["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    ours = HuggingFaceTokenizer(json.dumps(value).encode())
    assert ours.encode("one two three").tolist() == HuggingFaceTokenizer(byte_level()).encode("one two three").tolist()


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"model": 1}', byte_level()[:-9], b"[" * 10_000, b'{"a":' * 9000],
)
def test_a_damaged_file(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"tok\.json cannot be read: .*\nthe file is damaged"):
        HuggingFaceTokenizer(data, name="tok.json")


def test_a_file_without_tokens() -> None:
    value = json.loads(byte_level())
    value["model"].update(vocab={}, merges=[])
    value["added_tokens"] = []
    with pytest.raises(BundleError, match=r"tok\.json has no tokens"):
        HuggingFaceTokenizer(json.dumps(value).encode(), name="tok.json")


def test_an_enormous_file_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOKENIZER_BYTES", 10)
    with pytest.raises(BundleError, match=r"tokenizer\.json has [\d,]+ bytes\nat most 10 are allowed"):
        HuggingFaceTokenizer(byte_level())


def test_a_lone_surrogate_cannot_be_encoded() -> None:
    with pytest.raises(InputError, match="cannot be written as UTF-8: surrogates not allowed at position 1\nremove"):
        HuggingFaceTokenizer(byte_level()).encode("a\ud800")


def test_ids_that_are_no_integers() -> None:
    with pytest.raises(InputError, match=r"need integers \[n\]"):
        HuggingFaceTokenizer(byte_level()).decode(np.array([1.5]))
    assert HuggingFaceTokenizer(byte_level()).decode(np.array([-1, 2**40])) == ""


def test_an_expression_that_explodes_is_an_error_of_ours(capfd: pytest.CaptureFixture[str]) -> None:
    """The library gives up a search after some millions of steps, and panics."""
    value = json.loads(byte_level())
    value["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(a|a|aa)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    with pytest.raises(InputError, match=r"tokenizer\.json cannot encode the text: the library failed"):
        HuggingFaceTokenizer(json.dumps(value).encode()).encode("a" * 60 + "b")
    capfd.readouterr()


def test_one_file_is_loaded_once() -> None:
    data = byte_level()
    first = HuggingFaceTokenizer(data)
    assert HuggingFaceTokenizer(bytes(data))._tokenizer is first._tokenizer
    other = HuggingFaceTokenizer(byte_level(bos=True))
    assert other._tokenizer is not first._tokenizer
    assert first.encode("a").tolist() == other.encode("a", add_special_tokens=False).tolist()
