r"""How texts are cut before byte pairs are merged, by the name that GGUF files have for it.

A name stands for regular expressions that llama.cpp keeps in its code; here are those of the tokenizer.json files that
the names were made for, in the form of huggingface/tokenizers (Oniguruma). They differ from llama.cpp's in spelling
alone: `(?i:'s)` there is `'[sS]`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["PRE_TOKENIZERS", "PreTokenizer", "find_pre_tokenizer"]


@dataclass(frozen=True, kw_only=True)
class PreTokenizer:
    """How a text is cut.

    Attributes:
        splits: steps in front of the byte level, in the form of tokenizer.json.
        own_split: the byte level cuts as GPT-2 does.
        nfc: the text is composed first (Unicode, form C).
        ignore_merges: a piece that is a token as a whole is that token.
        add_bos: a text begins with the token for it, where the file does not say.
    """

    splits: tuple[Mapping[str, Any], ...] = ()
    own_split: bool = False
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False

    def steps(self) -> dict[str, Any]:
        """The step of tokenizer.json."""
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": self.own_split}
        if not self.splits:
            return level
        return {"type": "Sequence", "pretokenizers": [*map(dict, self.splits), level]}


def _split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


_DIGITS = {"type": "Digits", "individual_digits": True}
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS_AND_SPACES = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS_WITH_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_LLAMA3 = _split(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS_AND_SPACES}")
_QWEN2 = _split(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_SIGNS_AND_SPACES}")
_TEKKEN = _split(rf"{_LEAD}{_UPPER}*{_LOWER}+|{_LEAD}{_UPPER}+{_LOWER}*|\p{{N}}|{_SIGNS_WITH_SLASH}")
_GPT4O = _split(
    rf"{_LEAD}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_LEAD}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|"
    rf"{_SIGNS_WITH_SLASH}"
)
_DEEPSEEK_CODER = (_split(r"[\r\n]"), _split(r"\s?\p{L}+"), _split(r"\s?\p{P}+"), _split("[一-龥ࠀ-一가-퟿]+"), _DIGITS)

_GPT2 = PreTokenizer(own_split=True)
_BY_DIGIT = PreTokenizer(splits=(_DIGITS,), own_split=True)
_LLAMA_3 = PreTokenizer(splits=(_LLAMA3,), ignore_merges=True, add_bos=True)

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = MappingProxyType(
    {
        "gpt-2": _GPT2,
        "phi-2": _GPT2,
        "smollm": _BY_DIGIT,
        "starcoder": _BY_DIGIT,
        "refact": _BY_DIGIT,
        "llama-bpe": _LLAMA_3,
        "llama3": _LLAMA_3,
        "llama-v3": _LLAMA_3,
        "pixtral": _LLAMA_3,
        "falcon3": _LLAMA_3,
        "smaug-bpe": PreTokenizer(splits=(_LLAMA3,), ignore_merges=True),
        "dbrx": PreTokenizer(splits=(_LLAMA3,)),
        "qwen2": PreTokenizer(splits=(_QWEN2,), nfc=True),
        "deepseek-r1-qwen": PreTokenizer(splits=(_QWEN2,), nfc=True),
        "deepseek-coder": PreTokenizer(splits=_DEEPSEEK_CODER),
        "tekken": PreTokenizer(splits=(_TEKKEN,), ignore_merges=True, add_bos=True),
        "gpt-4o": PreTokenizer(splits=(_GPT4O,)),
    }
)
"""`tokenizer.ggml.pre` -> how it cuts."""


def find_pre_tokenizer(name: object) -> PreTokenizer:
    """Find one by its name.

    Raises:
        CheckpointError: none, or one that is not known; lists those that are.
    """
    if isinstance(name, str) and name in PRE_TOKENIZERS:
        return PRE_TOKENIZERS[name]
    near = difflib.get_close_matches(name, PRE_TOKENIZERS, n=1) if isinstance(name, str) else []
    said = "is missing" if name is None else f"is {shown(name)}"
    raise CheckpointError(
        f"tokenizer.ggml.pre {said}: how its tokenizer cuts a text is not known here",
        hint=f"known: {', '.join(PRE_TOKENIZERS)}"
        + (f"; the nearest is {near[0]!r}" if near else "")
        + "\ntake the model's folder as transformers has it: its tokenizer.json says how",
    )
