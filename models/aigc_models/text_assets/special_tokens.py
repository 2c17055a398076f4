"""The special and added tokens of a tokenizer, as transformers 5 collects them from a folder's files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aigc_models.text_assets.text_files import TextFiles
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["NAMED", "Added", "SpecialTokens", "collect_special_tokens"]

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_DIGITS = re.compile("[0-9]{1,10}")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, kw_only=True)
class Added:
    """A token beside the vocabulary, found in a text before anything else is.

    Attributes:
        content: its text.
        special: whether decoding leaves it out.
        normalized: whether it is looked for in the normalized text.
        single_word: whether it is found as a whole word alone.
        lstrip: whether it takes the spaces before it.
        rstrip: whether it takes the spaces behind it.
    """

    content: str
    special: bool = False
    normalized: bool = True
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False

    @staticmethod
    def plain(content: str) -> Added:
        """A special token of which nothing is said but its text."""
        return Added(content=content, special=True, normalized=False)


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """The tokens of a folder beside the vocabulary.

    Attributes:
        named: such as `bos_token`, in transformers' order, then those of the model's own names.
        extra: further special ones.
        by_id: added tokens with the ids that the files give them.
    """

    named: Mapping[str, Added] = field(default_factory=dict)
    extra: tuple[Added, ...] = ()
    by_id: Mapping[int, Added] = field(default_factory=dict)

    def text(self, name: str) -> str | None:
        """What a named token is; None where there is none."""
        return self.named[name].content if name in self.named else None


def collect_special_tokens(
    files: TextFiles, tokenizer: Mapping[str, Any] | None, defaults: Mapping[str, str | None]
) -> SpecialTokens:
    """Collect them.

    Args:
        files: of the folder.
        tokenizer: the content of its tokenizer.json.
        defaults: named tokens of the tokenizer's class.

    Raises:
        CheckpointError: a token that is none.
    """
    values: dict[str, Any] = dict(files.tokenizer_config)
    by_id: dict[int, Added] = {}
    if "added_tokens_decoder" in values:
        by_id |= {i: _token(t, "added_tokens_decoder") for i, t in _items(values, "added_tokens_decoder")}
    else:
        # As files were before tokenizer_config.json listed the added tokens.
        values |= {name: _special(value) for name, value in files.special_tokens.items()}
        known = {_content(values[name]) for name in NAMED if values.get(name)}
        known |= {_content(token) for token in _list(values, "additional_special_tokens")}
        for content, index in files.added_tokens.items():
            special = content in known
            by_id[_id(index, "added_tokens.json")] = Added(content=content, special=special, normalized=not special)
        for token in _list(tokenizer or {}, "added_tokens"):
            added = _token(token, "added_tokens")
            by_id[_id(token.get("id") if isinstance(token, Mapping) else None, "added_tokens")] = added
    by_content = {token.content: token for token in by_id.values()}
    named = {
        name: by_content.get(token.content, token)
        for name in NAMED
        if (token := _named(values, name, defaults)) is not None
    }
    extra = values.get("extra_special_tokens") or values.get("additional_special_tokens") or ()
    own = {
        name: _token(value, name)
        for name, value in values.items()
        if name.endswith("_token") and name not in NAMED and isinstance(value, (str, dict))
    }
    if isinstance(extra, Mapping):
        own |= {name: _token(value, name) for name, value in extra.items()}
        extra = values.get("additional_special_tokens") or () if extra is values.get("extra_special_tokens") else ()
    if not isinstance(extra, (list, tuple)):
        raise CheckpointError(f"additional_special_tokens is {shown(extra)}", hint="must be a list of tokens")
    return SpecialTokens(
        named={**named, **own},
        extra=tuple(_token(token, "additional_special_tokens") for token in extra),
        by_id=dict(sorted(by_id.items())),
    )


def _named(values: Mapping[str, Any], name: str, defaults: Mapping[str, str | None]) -> Added | None:
    value = values[name] if name in values else defaults.get(name)
    return None if value is None else _token(value, name)


def _items(values: Mapping[str, Any], name: str) -> list[tuple[int, Any]]:
    found = values[name]
    if not isinstance(found, Mapping) or not all(_DIGITS.fullmatch(i) for i in found):
        raise CheckpointError(f"tokenizer_config.json: {name} is {shown(found)}", hint="must map ids to tokens")
    return [(int(i), token) for i, token in found.items()]


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    found = values.get(name) or []
    if not isinstance(found, (list, Mapping)):
        raise CheckpointError(f"{name} is {shown(found)}", hint="must be a list of tokens")
    return [*found]


def _id(value: object, where: str) -> int:
    if type(value) is not int or value < 0:
        raise CheckpointError(f"{where} gives a token the id {shown(value)}", hint="must be a whole number from 0")
    return value


def _special(value: Any) -> Any:
    return {**value, "special": True} if isinstance(value, dict) and "content" in value else value


def _content(value: Any) -> str:
    return str(value.get("content")) if isinstance(value, Mapping) else str(value)


def _token(value: Any, where: str) -> Added:
    if isinstance(value, str):
        return Added.plain(value)
    if isinstance(value, Mapping) and isinstance(value.get("content"), str):
        flags = {name: value[name] for name in _FLAGS if name in value}
        if all(isinstance(flag, bool) for flag in flags.values()):
            return Added(content=value["content"], **{"normalized": not flags.get("special", False), **flags})
    raise CheckpointError(f"{where} holds {shown(value)}", hint="a token is its text, or an object with 'content'")
