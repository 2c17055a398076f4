"""The tokens of a GGUF file, checked, and what every tokenizer.json that is made of them shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["BYTE", "CONTROL", "NORMAL", "UNKNOWN", "USER_DEFINED", "Vocabulary", "around"]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_KEY = "tokenizer.ggml."
_HINT = "the file is damaged: get it again"
_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",
    "mask_token": "mask_token_id",
}
"""transformers' name -> the format's key, its spelling included."""
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")


@dataclass(frozen=True)
class Vocabulary:
    """The values `tokenizer.ggml.*` of a file.

    Attributes:
        values: of the file.
        tokens: by id.
        types: a type of each.
    """

    values: Mapping[str, Any]
    tokens: list[str]
    types: list[int]

    @staticmethod
    def of(values: Mapping[str, Any], *, vocab_size: int) -> Vocabulary:
        """Read the tokens.

        Args:
            values: of the file.
            vocab_size: rows of the token embedding.

        Raises:
            CheckpointError: no tokens, more than rows, types that are not theirs, or a token that is there twice.
        """
        tokens = values.get(f"{_KEY}tokens")
        if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
            raise CheckpointError("tokenizer.ggml.tokens is missing, or no list of strings", hint=_HINT)
        if len(tokens) > vocab_size:
            raise CheckpointError(
                f"the tokenizer has {len(tokens):,} tokens, the model {vocab_size:,} rows of embeddings", hint=_HINT
            )
        types = _numbers(values, "token_type", len(tokens))
        found = [NORMAL] * len(tokens) if types is None else types.astype(int).tolist()
        if wrong := sorted(set(found) - {*range(NORMAL, BYTE + 1)}):
            raise CheckpointError(f"tokenizer.ggml.token_type holds {wrong[0]}", hint=_HINT)
        counts = Counter(token for token, kind in zip(tokens, found, strict=True) if kind != UNUSED)
        if counts and (most := counts.most_common(1)[0])[1] > 1:
            raise CheckpointError(f"the token {shown(most[0])} has {most[1]} ids", hint=_HINT)
        return Vocabulary(values, tokens, found)

    def ids(self) -> dict[str, int]:
        """Token -> id, of all that a text may have."""
        return {token: i for i, (token, kind) in enumerate(self._pairs()) if kind != UNUSED}

    def scores(self) -> list[float]:
        """The score of each token.

        Raises:
            CheckpointError: none are there.
        """
        scores = _numbers(self.values, "scores", len(self.tokens))
        if scores is None or not np.isfinite(scores).all():
            raise CheckpointError("tokenizer.ggml.scores is missing, or holds what is no number", hint=_HINT)
        found: list[float] = scores.astype(float).tolist()
        return found

    def merges(self) -> list[list[str]]:
        """The pairs that are merged, in their order.

        Raises:
            CheckpointError: none are there, or one that is no pair of tokens.
        """
        lines = self.values.get(f"{_KEY}merges")
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise CheckpointError("tokenizer.ggml.merges is missing, or no list of strings", hint=_HINT)
        pairs, ids = [line.split(" ", 1) for line in lines], self.ids()
        for pair in pairs:
            if len(pair) != 2 or pair[0] not in ids or pair[1] not in ids or "".join(pair) not in ids:
                raise CheckpointError(f"tokenizer.ggml.merges holds {shown(' '.join(pair))}: no pair", hint=_HINT)
        return pairs

    def flag(self, key: str, default: bool) -> bool:
        """A truth value."""
        value = self.values.get(f"{_KEY}{key}", default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{_KEY}{key} is {shown(value)}, expected true or false", hint=_HINT)
        return value

    def id(self, key: str) -> int | None:
        """The id that a key names; None where it is not there.

        Raises:
            CheckpointError: no token has it.
        """
        value = self.values.get(f"{_KEY}{key}")
        # llama.cpp writes -1, as an unsigned number, for none.
        if value is None or value == 2**32 - 1:
            return None
        if type(value) is not int or not 0 <= value < len(self.tokens):
            raise CheckpointError(f"{_KEY}{key} is {shown(value)}, which no token has", hint=_HINT)
        return value

    def named(self) -> dict[str, str]:
        """The special tokens by the names that transformers has for them."""
        found = {name: self.id(key) for name, key in _NAMED.items()}
        return {name: self.tokens[i] for name, i in found.items() if i is not None}

    def ends(self) -> tuple[int, ...]:
        """The tokens that end a text: of a whole one, of a turn, of a message."""
        return tuple(dict.fromkeys(i for key in _ENDS if (i := self.id(key)) is not None))

    def added(self, *, take_spaces: bool = False) -> list[dict[str, Any]]:
        """The tokens that are found in a text before anything else is, in the form of tokenizer.json.

        Args:
            take_spaces: they take the spaces behind them, but for those that begin and end texts.
        """
        keep = {"<unk>", "<s>", "<|endoftext|>"}
        named = {*self.named().values()}  # which transformers adds, whatever their types
        return [
            {
                "id": i,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": take_spaces and token not in keep,
                "normalized": False,
                "special": kind != USER_DEFINED or token in named,
            }
            for i, (token, kind) in enumerate(self._pairs())
            if kind in (CONTROL, USER_DEFINED, UNKNOWN) or token in named
        ]

    def _pairs(self) -> zip[tuple[str, int]]:
        return zip(self.tokens, self.types, strict=True)


def _numbers(values: Mapping[str, Any], key: str, count: int) -> npt.NDArray[Any] | None:
    found = values.get(f"{_KEY}{key}")
    if found is None:
        return None
    if not isinstance(found, np.ndarray) or len(found) != count:
        raise CheckpointError(f"{_KEY}{key} is no list of {count:,} numbers, one for each token", hint=_HINT)
    return found


def around(vocabulary: Vocabulary, *, add_bos: bool) -> dict[str, Any] | None:
    """The step of tokenizer.json that puts special tokens around a text; None where there are none.

    Args:
        vocabulary: of the file.
        add_bos: whether a text begins with one where the file does not say.

    Raises:
        CheckpointError: one is put there, but the file does not say which.
    """
    named, template, tokens = vocabulary.named(), [], {}
    for flag, default, name, at in (
        ("add_bos_token", add_bos, "bos_token", 0),
        ("add_eos_token", False, "eos_token", 1),
    ):
        if not vocabulary.flag(flag, default):
            continue
        if name not in named:
            raise CheckpointError(f"tokenizer.ggml.{flag} is true, but no token is its {name}", hint=_HINT)
        token = named[name]
        template.append((at, token))
        tokens[token] = {"id": token, "ids": [vocabulary.tokens.index(token)], "tokens": [token]}
    if not template:
        return None

    def sequence(name: str, number: int) -> list[dict[str, Any]]:
        special = [{"SpecialToken": {"id": token, "type_id": number}} for _, token in template]
        first = sum(at == 0 for at, _ in template)
        return [*special[:first], {"Sequence": {"id": name, "type_id": number}}, *special[first:]]

    return {
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": [*sequence("A", 0), *sequence("B", 1)],
        "special_tokens": tokens,
    }
