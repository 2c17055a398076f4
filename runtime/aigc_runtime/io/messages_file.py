"""Chats from a file: JSON of one, or JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aigc_runtime.errors import InputError
from aigc_runtime.io.printable import shown
from aigc_runtime.io.prompt_file import read_text
from aigc_runtime.io.strict_json import loads_strict

__all__ = ["Chat", "read_chats"]

_FIELDS = ("messages", "tools")


class Chat(NamedTuple):
    """A chat as a file has it.

    Attributes:
        messages: its turns.
        tools: that the model may call; None where there are none.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None


def read_chats(source: str) -> list[Chat]:
    """Read chats.

    The file holds a list of messages, or an object with `messages` and maybe `tools`: one chat. Or such a value in each
    line: as many chats. Or one message in each line: one chat.

    Args:
        source: a path, which may be a pipe; `-` for standard input.

    Raises:
        InputError: it cannot be read, or is something else; names the line.
    """
    text = read_text(source, what="the messages")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise InputError(f"{source!r} holds no messages", hint='such as [{"role": "user", "content": "Hi"}]')
    if _is_lines([line for _, line in lines]):
        values = [(f"line {number} of {source!r}", line) for number, line in lines]
    else:
        values = [(repr(source), text)]
    parsed = [(where, _parsed(where, value)) for where, value in values]
    if all(isinstance(value, dict) and "role" in value for _, value in parsed):
        return [Chat([_message(where, value) for where, value in parsed])]
    return [_chat(where, value) for where, value in parsed]


def _is_lines(lines: Sequence[str]) -> bool:
    """Whether each line is a value of its own: the first one is, and there are more."""
    if len(lines) == 1:
        return False
    try:
        json.loads(lines[0].removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return False
    return True


def _parsed(where: str, text: str) -> Any:
    return loads_strict(text.encode("utf-8"), what=where, error=InputError, written_by_hand=True)


def _chat(where: str, value: Any) -> Chat:
    tools = None
    if isinstance(value, dict):
        if "role" in value:
            raise InputError(f"{where} is a message, other lines are chats", hint="write one or the other in all lines")
        unknown = [name for name in value if name not in _FIELDS]
        if unknown or "messages" not in value:
            raise InputError(
                f"{where} has {', '.join(map(repr, value)) or 'no fields'}", hint=f"a chat has: {', '.join(_FIELDS)}"
            )
        tools = value.get("tools")
        if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
            raise InputError(f"{where}: tools is {shown(tools)}", hint="must be a list of objects")
        value = value["messages"]
    if not isinstance(value, list) or not value:
        raise InputError(f"{where} is {shown(value)}", hint="a chat is a list of messages, at least one")
    return Chat([_message(f"{where}, message {i}", message) for i, message in enumerate(value)], tools)


def _message(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        raise InputError(f"{where} is {shown(value)}", hint='a message is such as {"role": "user", "content": "Hi"}')
    return value
