"""Documents that a language model is judged or calibrated on: the user's texts, or the lines of jsonl files.

A line of a jsonl file is an object with `text`, with `messages` (a chat, which the model's own template turns into
text) or with `input_ids` (tokens, for a model without a tokenizer). Other keys beside these say nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_models.data.text_files import JSONL_SUFFIX, TEXT_SUFFIXES, read_text_files
from aigc_runtime.core.integers import as_integer
from aigc_runtime.errors import AigcError, InputError
from aigc_runtime.io.strict_json import loads_strict
from aigc_runtime.pipelines.text_tensors import INPUT_IDS

__all__ = ["MAX_CHATS", "Document", "Render", "plain_documents", "read_documents"]

MAX_CHATS = 4096
"""Chats of a file that are rendered; of more, every second, third, ... is."""
_CHAT = b'"messages"'
MAX_ID = 2**31
_FORMS = ("messages", "text", INPUT_IDS)
_HINT = 'expected {"messages": [{"role": "user", "content": "..."}, ...]}, {"text": "..."} or {"input_ids": [...]}'

Render = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]] | None], str]
"""Messages of a chat, and the tools it may call -> its text, the special tokens among it."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text as a tokenizer takes it, or its tokens.

    Attributes:
        text: UTF-8.
        is_rendered: whether a chat template wrote it, special tokens and all: the tokenizer adds none.
        ids: tokens in place of text.
    """

    text: bytes = b""
    is_rendered: bool = False
    ids: tuple[int, ...] = ()

    @property
    def content(self) -> bytes:
        """What tells it from others: its text, or its tokens."""
        return self.text or " ".join(map(str, self.ids)).encode()


def plain_documents(texts: Iterable[bytes]) -> tuple[Document, ...]:
    """Make a document of every text that is not empty."""
    return tuple(Document(text=text) for text in texts if text)


def read_documents(
    path: Path | str, *, render: Render | None = None, error: type[AigcError] = InputError
) -> tuple[Document, ...]:
    """Read a text file, a jsonl file, or every one below a folder (see `read_text_files`).

    Args:
        path: file or folder.
        render: of the model's chat template; None where it has none.
        error: the type to raise.

    Raises:
        AigcError: of type `error`; see `read_text_files`, and a line that is no JSON, of another form, or a chat that
            the template does not take; names the file and the line.
    """
    found = read_text_files(path, suffixes=(*TEXT_SUFFIXES, JSONL_SUFFIX), error=error)
    documents: list[Document] = []
    for file, data in zip(found.files, found.texts, strict=True):
        if file.suffix.lower() == JSONL_SUFFIX:
            documents += _Lines(file, render, error).documents(data)
        else:
            documents.append(Document(text=data))
    return tuple(documents)


@dataclass(frozen=True)
class _Lines:
    """Reads the lines of one jsonl file."""

    file: Path
    render: Render | None
    error: type[AigcError]

    def documents(self, data: bytes) -> Iterator[Document]:
        """Yield every document that is not empty; of too many chats, some from everywhere."""
        # By the name of the field, which stands in no text but escaped: a line is parsed when its turn comes.
        stride = max(1, -(-data.count(_CHAT) // MAX_CHATS))
        chats = 0
        for number, line in _numbered(data):
            where = f"line {number} of {str(self.file)!r}"
            value = loads_strict(line, what=where, error=self.error, written_by_hand=True)
            form = self._form(value, where)
            if form == "messages":
                chats += 1
                self._check_messages(value, where)
                if self.render is None:
                    raise self.error(
                        f"{where} is a chat, and the model has no chat template",
                        hint='give lines with "text", or a model whose folder has a template',
                    )
                if (chats - 1) % stride:
                    continue
                document = Document(text=self._rendered(value, where), is_rendered=True)
            elif form == "text":
                document = Document(text=self._text(value, where))
            else:
                document = Document(ids=self._ids(value, where))
            if document.content:
                yield document

    def _form(self, value: Any, where: str) -> str:
        if not isinstance(value, dict):
            raise self.error(f"{where} is a {type(value).__name__}", hint=_HINT)
        forms = [form for form in _FORMS if form in value]
        if len(forms) > 1:
            raise self.error(f"{where} has both {' and '.join(forms)}", hint=f"leave one out; {_HINT}")
        if not forms:
            names = ", ".join(repr(name)[:40] for name in list(value)[:8]) or "nothing"
            raise self.error(f"{where} has none of {', '.join(_FORMS)}: it has {names}", hint=_HINT)
        return forms[0]

    def _check_messages(self, value: Mapping[str, Any], where: str) -> None:
        messages, tools = value["messages"], value.get("tools")
        if not isinstance(messages, list) or not messages:
            raise self.error(f"{where} has no messages", hint=_HINT)
        for turn, message in enumerate(messages):
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise self.error(f"{where} has a message {turn} without a role", hint=_HINT)
            content = message.get("content")
            if not isinstance(content, str) and (content is not None or "tool_calls" not in message):
                raise self.error(f"{where} has a message {turn} whose content is no text", hint=_HINT)
        if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
            raise self.error(
                f"{where} has tools that are no list of objects", hint="give them as the template takes them"
            )

    def _rendered(self, value: Mapping[str, Any], where: str) -> bytes:
        assert self.render is not None
        try:
            return self.render(value["messages"], value.get("tools")).encode("utf-8")
        except AigcError as err:
            raise self.error(f"{where}: {err.message}", hint=err.hint) from err

    def _text(self, value: Mapping[str, Any], where: str) -> bytes:
        text = value["text"]
        if not isinstance(text, str):
            raise self.error(f"{where} has a text that is a {type(text).__name__}", hint=_HINT)
        return text.encode("utf-8")

    def _ids(self, value: Mapping[str, Any], where: str) -> tuple[int, ...]:
        given = value[INPUT_IDS]
        ids = [as_integer(token) for token in given] if isinstance(given, list) else [None]
        found = tuple(token for token in ids if token is not None and 0 <= token < MAX_ID)
        if len(found) < len(ids):
            raise self.error(f"{where} has input_ids that are no list of token ids", hint=_HINT)
        return found


def _numbered(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers from 1, and hold one at a time."""
    start, number = 0, 0
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        number += 1
        if line := data[start:end].strip():
            yield number, line
        start = end + 1
