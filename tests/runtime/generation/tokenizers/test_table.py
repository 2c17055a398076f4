"""Tokenizers as a manifest describes them, and what is refused."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from aigc_runtime.errors import BundleError, EngineMissingError, InputError, TextSupportMissingError, UnknownNameError
from aigc_runtime.generation.tokenizers import (
    TOKENIZERS,
    ByteTokenizer,
    HuggingFaceTokenizer,
    Tokenizer,
    TokenizerInfo,
    TokenizerRequest,
    make_tokenizer,
)

BYTES = TokenizerInfo(kind="bytes")
FILE = TokenizerInfo(kind="huggingface", file="tokenizer.json")


def made(info: TokenizerInfo, vocab_size: int = 256, **rest: Any) -> Tokenizer:
    return make_tokenizer(TokenizerRequest(info=info, vocab_size=vocab_size, **rest))


def test_the_byte_tokenizer() -> None:
    tokenizer = made(BYTES)
    assert isinstance(tokenizer, ByteTokenizer)
    assert tokenizer.vocab_size == 256
    assert made(BYTES, 259, bos=256, others=[257, 258]).vocab_size == 259
    assert made(BYTES, others=[33, 0]).decode(np.array([33])) == "!"
    assert list(TOKENIZERS) == ["bytes", "huggingface", "none"]


def test_a_model_without_text_takes_ids_alone() -> None:
    tokenizer = made(TokenizerInfo(kind="none"), 7)
    assert tokenizer.vocab_size == 7
    with pytest.raises(InputError, match="this model has no tokenizer, so that it takes no text\ngive token ids"):
        tokenizer.encode("a")
    assert tokenizer.decode(np.array([3, 4])) == ""
    stream = tokenizer.stream()
    assert (stream.feed(3), stream.finish()) == ("", "")
    with pytest.raises(InputError, match="need integers"):
        tokenizer.decode(np.array([1.5]))


def test_a_tokenizer_of_a_file() -> None:
    from .makers import byte_level

    data = byte_level()
    tokenizer = made(FILE, 10_000, assets={"tokenizer.json": data})
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    assert tokenizer.decode(tokenizer.encode("naïve")) == "naïve"
    with pytest.raises(BundleError, match=r"the program has no file 'tokenizer\.json', which its tokenizer is in"):
        made(FILE, 10_000)
    with pytest.raises(BundleError, match="the huggingface tokenizer has no file"):
        made(TokenizerInfo(kind="huggingface"), 10_000)


def test_a_file_is_not_read_for_a_manifest_alone() -> None:
    tokenizer = made(FILE, 9, assets=None)
    assert tokenizer.vocab_size == 9
    with pytest.raises(InputError, match=r"tokenizer\.json was not read"):
        tokenizer.encode("a")


def test_more_tokens_than_the_model_has() -> None:
    from .makers import byte_level

    data = byte_level()
    size = made(FILE, 10_000, assets={"tokenizer.json": data}).vocab_size
    assert made(FILE, size, assets={"tokenizer.json": data}).vocab_size == size
    with pytest.raises(BundleError, match=f"the tokenizer has {size:,} tokens, the model {size - 1:,}\nexport"):
        made(FILE, size - 1, assets={"tokenizer.json": data})
    with pytest.raises(BundleError, match="the tokenizer has 256 tokens, the model 255"):
        made(BYTES, 255)


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(TextSupportMissingError, match=r"not installed\npip install 'aigc-runtime\[text\]'") as found:
        made(FILE, 10_000, assets={"tokenizer.json": b"{}"})
    assert isinstance(found.value, EngineMissingError)


def test_an_unknown_kind() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown tokenizer 'byte'\nvalid: .*bytes.*Did you mean 'bytes'\?"):
        made(TokenizerInfo(kind="byte"))


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (TokenizerInfo(kind="bytes", file="a.json"), r"the byte tokenizer has the file 'a\.json'\nit needs none: must"),
        (TokenizerInfo(kind="none", file="a.json"), r"a model without a tokenizer has the file 'a\.json'"),
        (TokenizerInfo(kind="bytes", clean_up_spaces=True), "the byte tokenizer has clean_up_spaces"),
    ],
)
def test_settings_that_the_kind_does_not_take(info: TokenizerInfo, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        made(info)


def test_ids_that_the_byte_tokenizer_does_not_take() -> None:
    with pytest.raises(BundleError, match=r"the byte tokenizer: bos is 12\nmust be an integer from 256"):
        made(BYTES, bos=12)
