"""Texts are cut as llama.cpp's expressions of the same name cut them, matched by another engine (`regex`)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from tests.models.sources.gguf.texts import TEXTS

from aigc_models.sources.gguf.pre_tokenizers import PRE_TOKENIZERS, find_pre_tokenizer
from aigc_runtime.errors import CheckpointError

regex = pytest.importorskip("regex")
tokenizers = pytest.importorskip("tokenizers")

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
ENDINGS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
LLAMA3 = (ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",)
QWEN2 = (ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",)
CASES = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+ENDINGS|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*ENDINGS|"
    r"\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
EXPRESSIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "phi-2"), (GPT2,)),
    **dict.fromkeys(("smollm", "starcoder", "refact"), (r"\p{N}", GPT2)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "pixtral", "falcon3", "smaug-bpe", "dbrx"), LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), QWEN2),
    "deepseek-coder": ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"),
    "tekken": (CASES.replace("ENDINGS", "").replace("DIGITS", ""),),
    "gpt-4o": (CASES.replace("ENDINGS", f"{ENDINGS}?").replace("DIGITS", "{1,3}"),),
}
"""As llama.cpp has them: each cuts the pieces that the one before left, into matches and what lies between."""


def cut(text: str, expressions: tuple[str, ...]) -> list[str]:
    pieces = [text]
    for expression in expressions:
        found: list[str] = []
        for piece in pieces:
            at = 0
            for match in regex.finditer(expression, piece):
                found += [piece[at : match.start()], match.group()]
                at = match.end()
            found.append(piece[at:])
        pieces = [piece for piece in found if piece]
    return pieces


def pieces_of(name: str, text: str) -> list[str]:
    step: Any = tokenizers.Tokenizer(tokenizers.models.BPE())
    content = {**json.loads(step.to_str()), "pre_tokenizer": PRE_TOKENIZERS[name].steps()}
    step = tokenizers.Tokenizer.from_str(json.dumps(content)).pre_tokenizer
    places = [place for _, place in step.pre_tokenize_str(text)]
    return [text[first:last] for first, last in places if last > first]


def test_every_name_is_compared() -> None:
    assert set(EXPRESSIONS) == set(PRE_TOKENIZERS)


@pytest.mark.parametrize("name", list(PRE_TOKENIZERS))
def test_texts_are_cut_alike(name: str) -> None:
    for text in TEXTS:
        assert pieces_of(name, text) == cut(text, EXPRESSIONS[name]), text


def test_other_expressions_would_show() -> None:
    assert any(pieces_of("llama-bpe", text) != cut(text, QWEN2) for text in TEXTS)
    assert any(pieces_of("gpt-2", text) != cut(text, EXPRESSIONS["smollm"]) for text in TEXTS)


@pytest.mark.parametrize("name", [None, "default", "qwen3", 5, "llama-bpe2"])
def test_an_unknown_name_is_refused(name: object) -> None:
    said = "is missing" if name is None else re.escape(repr(name) if isinstance(name, str) else str(name))
    with pytest.raises(CheckpointError, match=said) as caught:
        find_pre_tokenizer(name)
    assert "smollm" in caught.value.hint
    assert "tokenizer.json" in caught.value.hint
