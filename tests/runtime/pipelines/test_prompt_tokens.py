"""Prompts as CLIP's text encoders take them: cut and filled as transformers does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_runtime.generation.tokenizers.bytes import ByteTokenizer
from aigc_runtime.generation.tokenizers.huggingface import HuggingFaceTokenizer
from aigc_runtime.pipelines.prompt_tokens import PromptTokens

from .stable_diffusion_toys import make_tokenizer

TEXTS = ["", "a lighthouse", "the light at dusk, very long and wide", "a  b\nc", "é!?"]


@pytest.mark.parametrize("length", [2, 5, 12, 40])
def test_rows_are_those_of_transformers(length: int) -> None:
    theirs: Any = make_tokenizer()
    ours = HuggingFaceTokenizer(theirs.backend_tokenizer.to_str().encode())
    expected = theirs(TEXTS, padding="max_length", truncation=True, max_length=length).input_ids
    found = PromptTokens(ours, length, theirs.pad_token_id).encode(TEXTS)
    assert found.dtype == np.int64
    assert found.tolist() == expected


def test_what_is_cut_off_is_told() -> None:
    theirs: Any = make_tokenizer()
    tokens = PromptTokens(HuggingFaceTokenizer(theirs.backend_tokenizer.to_str().encode()), 6, theirs.pad_token_id)
    assert tokens.cut_off("a b c d") == ""
    assert tokens.cut_off("a b c d e f") == "e f"


def test_a_token_of_several_vectors() -> None:
    bare = ByteTokenizer(bos=None, special=(), padded_to=256)
    tokens = PromptTokens(bare, 6, 0, {ord("b"): 3})
    assert tokens.encode(["ab", "bbb"]).tolist() == [[97, 98, 99, 100, 0, 0], [98, 99, 100, 98, 99, 100]]
    assert tokens.cut_off("aaab") == ""
    assert tokens.cut_off("aaaab") == "d"
    assert tokens.encode([""]).tolist() == [[0] * 6]


def test_a_tokenizer_that_ends_no_text() -> None:
    tokens = PromptTokens(ByteTokenizer(bos=None, special=(), padded_to=256), 4, 0)
    assert tokens.encode(["ab", "abcdef"]).tolist() == [[97, 98, 0, 0], [97, 98, 99, 100]]
    assert (tokens.cut_off("abcd"), tokens.cut_off("abcdef")) == ("", "ef")
