"""Replay what tokenizers and a chat template must give exactly: token ids, texts and prompts that the host recorded.

The file is plain JSON:

    {"format": "aigc-text-vectors", "version": 1, "made_by": "transformers 5.23.0",
     "texts": [{"text": "Hi", "ids": [1, 72, 105], "bare_ids": [72, 105], "decoded": "Hi"}, ...],
     "chats": [{"chat": {"messages": [...], "add_generation_prompt": true}, "now": "2024-02-29T12:30:00",
                "prompt": "...", "ids": [...]}, {"chat": ..., "now": ..., "refused": "why"}, ...],
     "prompts": [{"text": "a hill", "ids": {"text_encoder": [49406, 320, 4965, 49407, ...]}}, ...]}
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aigc_runtime.errors import AigcError, BundleError, ChatTemplateError, InputError, TextSupportMissingError
from aigc_runtime.generation.chat import ChatTemplate
from aigc_runtime.generation.tokenizers import Tokenizer
from aigc_runtime.io.jsonable import from_json
from aigc_runtime.io.strict_json import loads_strict
from aigc_runtime.pipelines import kind_of
from aigc_runtime.pipelines.text_readers import PromptReader

__all__ = [
    "FORMAT",
    "MAX_VECTORS_BYTES",
    "VERSION",
    "ChatVector",
    "PromptVector",
    "TextCheck",
    "TextVector",
    "TextVectors",
    "check_text_vectors",
    "replay_chat",
    "replay_prompt",
    "replay_text",
]

FORMAT = "aigc-text-vectors"
VERSION = 1
MAX_VECTORS_BYTES = 2**24
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class TextVector:
    """A text and what a tokenizer makes of it.

    Attributes:
        text: to encode.
        ids: with the tokens that begin and end a text.
        bare_ids: without these.
        decoded: the text that `ids` are decoded to, whole or one by one.
    """

    text: str
    ids: tuple[int, ...]
    bare_ids: tuple[int, ...]
    decoded: str


@dataclass(frozen=True, kw_only=True)
class ChatVector:
    """A chat and the prompt that a template makes of it.

    Attributes:
        chat: arguments of `ChatTemplate.render`.
        now: the time that the template is told, as ISO 8601 has it.
        prompt: what is rendered; None for a chat that the template refuses.
        ids: of the prompt.
        refused: why it was refused, for the reader; what is compared is that it is.
    """

    chat: dict[str, Any]
    now: str
    prompt: str | None
    ids: tuple[int, ...]
    refused: str | None


@dataclass(frozen=True, kw_only=True)
class PromptVector:
    """A prompt and the rows of ids that text encoders are given for it.

    Attributes:
        text: of the prompt.
        ids: role of a text encoder -> its row, cut or filled up.
    """

    text: str
    ids: dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class TextVectors:
    """All of them, and what made them."""

    format: str
    version: int
    made_by: str
    texts: tuple[TextVector, ...] = ()
    chats: tuple[ChatVector, ...] = ()
    prompts: tuple[PromptVector, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TextCheck:
    """Texts, chats and prompts that were replayed; `reasons` is empty exactly if all came out as recorded.

    Attributes:
        made_by: the program that recorded them.
        texts: texts that were compared.
        chats: chats that were compared.
        passed: whether all came out as recorded.
        prompts: prompts that were compared.
        reasons: the first that did not, of each sort, and how many did not.
    """

    made_by: str
    texts: int
    chats: int
    passed: bool
    prompts: int = 0
    reasons: tuple[str, ...] = field(default=())

    @property
    def measured(self) -> str:
        """What was compared, in words."""
        compared = f"{self.prompts} prompts" if self.prompts else f"{self.texts} texts, {self.chats} chats"
        return f"{compared}, recorded by {self.made_by}"


def check_text_vectors(settings: Any, assets: Mapping[str, bytes], data: bytes) -> TextCheck:
    """Replay the vectors of a bundle. Fails closed: a tokenizer, a template or a text encoder without any has failed.

    Args:
        settings: of the pipeline.
        assets: of the program.
        data: content of the file of vectors.

    Raises:
        BundleError: the file is damaged, or a tokenizer or template that it is about.
        TextSupportMissingError: a package is not installed; the hint is the install line.
    """
    vectors = _parsed(data)
    readers = kind_of(settings).text_readers(settings, assets)
    tokenizer, template = readers.tokenizer, readers.template
    reasons: list[str] = []
    if tokenizer is not None:
        reasons += _summed("text", [replay_text(tokenizer, vector) for vector in vectors.texts])
        if readers.of_file and not vectors.texts:
            reasons.append("no text was compared")
    if tokenizer is not None and template is not None:
        reasons += _summed("chat", [replay_chat(template, tokenizer, vector) for vector in vectors.chats])
        if not vectors.chats:
            reasons.append("no chat was compared")
    if readers.prompts:
        reasons += _summed("prompt", [replay_prompt(readers.prompts, vector) for vector in vectors.prompts])
        if not vectors.prompts:
            reasons.append("no prompt was compared")
    for what, there, read_by, reader in (
        ("texts", vectors.texts, tokenizer, "tokenizer of texts"),
        ("chats", vectors.chats, template, "chat template"),
        ("prompts", vectors.prompts, readers.prompts, "text encoder"),
    ):
        if there and not read_by:
            reasons.append(f"there are {what} to compare, and no {reader}")
    return TextCheck(
        made_by=vectors.made_by,
        texts=len(vectors.texts),
        chats=len(vectors.chats),
        prompts=len(vectors.prompts),
        passed=not reasons,
        reasons=tuple(reasons),
    )


def _parsed(data: bytes) -> TextVectors:
    if len(data) > MAX_VECTORS_BYTES:
        raise BundleError(f"the file of texts has {len(data):,} bytes", hint=f"at most {MAX_VECTORS_BYTES:,} are read")
    found = loads_strict(data, what="the file of texts")
    found = {"prompts": [], **found} if isinstance(found, dict) else found  # earlier bundles have none
    vectors = from_json(TextVectors, found, where="texts")
    if (vectors.format, vectors.version) != (FORMAT, VERSION):
        raise BundleError(
            f"the file of texts is {vectors.format!r} {vectors.version}", hint=f"must be {FORMAT!r} {VERSION}"
        )
    return vectors


def _summed(what: str, differences: list[str | None]) -> list[str]:
    found = [difference for difference in differences if difference is not None]
    if not found:
        return []
    more = f" ({len(found)} of {len(differences)} {what}s differ)" if len(found) > 1 else ""
    return [f"{found[0]}{more}"]


def replay_text(tokenizer: Tokenizer, vector: TextVector) -> str | None:
    """What a tokenizer makes otherwise of a text; None for nothing.

    Raises:
        TextSupportMissingError: its package is not installed.
    """
    shown = f"text {_cut(vector.text)}"
    try:
        for special, expected in ((True, vector.ids), (False, vector.bare_ids)):
            ids = tuple(tokenizer.encode(vector.text, add_special_tokens=special).tolist())
            if ids != expected:
                return f"{shown}: {_difference(ids, expected)}"
        array = np.array(vector.ids, dtype=np.int64)
        decoded = tokenizer.decode(array)
        if decoded != vector.decoded:
            return f"{shown}: its ids are decoded to {_cut(decoded)}, recorded {_cut(vector.decoded)}"
        stream = tokenizer.stream()
        told = "".join(map(stream.feed, vector.ids)) + stream.finish()
    except TextSupportMissingError:
        raise
    except AigcError as err:
        return f"{shown}: {err.message}"
    return None if told == decoded else f"{shown}: its ids one by one give {_cut(told)}, together {_cut(decoded)}"


def replay_chat(template: ChatTemplate, tokenizer: Tokenizer, vector: ChatVector) -> str | None:
    """What a template makes otherwise of a chat; None for nothing.

    Raises:
        BundleError: a vector that is none.
    """
    shown = f"chat {_cut(str(_last(vector.chat)))}"
    try:
        now = datetime.datetime.fromisoformat(vector.now)
        prompt = template.render(**vector.chat, now=now)
        ids = tuple(tokenizer.encode(prompt, add_special_tokens=False).tolist())
    except ChatTemplateError as err:
        return None if vector.prompt is None else f"{shown}: {err.message}"
    except InputError as err:
        return f"{shown}: {err.message}"
    except (TypeError, ValueError) as err:
        raise BundleError(f"{shown} is not one: {err}", hint="the file is damaged: get it again") from err
    if vector.prompt is None:
        return f"{shown}: the template takes it, recorded as refused: {vector.refused}"
    if prompt != vector.prompt:
        at = next((i for i, pair in enumerate(zip(prompt, vector.prompt, strict=False)) if pair[0] != pair[1]), None)
        at = min(len(prompt), len(vector.prompt)) if at is None else at
        return f"{shown}: from place {at} the prompt is {_cut(prompt[at:])}, recorded {_cut(vector.prompt[at:])}"
    return None if ids == vector.ids else f"{shown}: {_difference(ids, vector.ids)}"


def replay_prompt(readers: Mapping[str, PromptReader], vector: PromptVector) -> str | None:
    """What text encoders are given otherwise for a prompt; None for nothing.

    Raises:
        TextSupportMissingError: the package of a tokenizer is not installed.
    """
    shown = f"prompt {_cut(vector.text)}"
    if vector.ids.keys() != readers.keys():
        return f"{shown}: recorded for {', '.join(vector.ids) or 'nothing'}, the pipeline has {', '.join(readers)}"
    for role, expected in vector.ids.items():
        try:
            (row,) = readers[role]([vector.text]).tolist()
        except InputError as err:
            return f"{shown}: {err.message}"
        if (ids := tuple(row)) != expected:
            return f"{shown} for {role}: {_difference(ids, expected)}"
    return None


def _last(chat: Mapping[str, Any]) -> Any:
    messages = chat.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return last.get("content") if isinstance(last, Mapping) else last


def _difference(ids: tuple[int, ...], expected: tuple[int, ...]) -> str:
    at = next((i for i, pair in enumerate(zip(ids, expected, strict=False)) if pair[0] != pair[1]), None)
    at = min(len(ids), len(expected)) if at is None else at
    ours, theirs = list(ids[at : at + _SHOWN]), list(expected[at : at + _SHOWN])
    return f"from place {at} its token ids are {ours}, recorded {theirs}"


def _cut(text: str) -> str:
    return f"{text[:40]!a}{'...' if len(text) > 40 else ''}"
