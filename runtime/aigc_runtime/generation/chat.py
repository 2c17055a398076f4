"""How a chat becomes a prompt: a template in the language of jinja, as a model's maker wrote it.

What a template sees and what it gives is what transformers' `apply_chat_template` does with it; it runs in the sandbox
of `chat_sandbox`, within limits on time and size.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aigc_runtime.errors import BundleError, ConfigError, InputError, UnknownNameError
from aigc_runtime.generation.chat_sandbox import CompiledTemplate, compile_template
from aigc_runtime.io.printable import shown

__all__ = ["DEFAULT_TEMPLATE", "MAX_TEMPLATE_BYTES", "ChatInfo", "ChatTemplate", "Message"]

Message = Mapping[str, Any]
"""A turn of a chat: `role`, `content`, and what else the template reads, such as `tool_calls`."""

DEFAULT_TEMPLATE = "default"
"""The template that is used where no other is named."""
TOOL_TEMPLATE = "tool_use"
"""The template that is used where tools are given, if there is one of this name."""
MAX_TEMPLATE_BYTES = 2**20

_RESERVED = ("messages", "tools", "documents", "add_generation_prompt")
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names that a turn's reasoning goes by; a template finds it under the first two."""
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
MAX_DEPTH = 64


@dataclass(frozen=True, kw_only=True)
class ChatInfo:
    """Which chat templates a model has.

    Attributes:
        templates: name -> file of the bundle; one of them is called `default`.
        special_tokens: what templates may write, by name, such as `bos_token`.
    """

    templates: dict[str, str]
    special_tokens: dict[str, str]

    def __post_init__(self) -> None:
        if DEFAULT_TEMPLATE not in self.templates:
            raise ConfigError(
                f"chat.templates has no {DEFAULT_TEMPLATE!r}", hint=f"it has: {', '.join(self.templates) or '(none)'}"
            )
        if taken := sorted(self.special_tokens.keys() & set(_RESERVED)):
            raise ConfigError(f"chat.special_tokens names {taken[0]!r}", hint="a template knows that by another value")


class ChatTemplate:
    """Renders chats.

    Args:
        templates: name -> source; one of them is called `default`.
        special_tokens: what templates may write, by name, such as `bos_token`.

    Raises:
        TextSupportMissingError: jinja2 is not installed, or too old to be safe; the hint is the install line.
        BundleError: a template that cannot be read.
    """

    def __init__(self, templates: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        self.templates = dict(templates)
        self.special_tokens = dict(special_tokens)
        self._compiled: dict[str, CompiledTemplate] = {
            name: compile_template(source, name=name) for name, source in templates.items()
        }

    @staticmethod
    def of(info: ChatInfo, assets: Mapping[str, bytes]) -> ChatTemplate:
        """The templates of a program.

        Args:
            info: of its settings.
            assets: its files.

        Raises:
            TextSupportMissingError: see the class, also for the next one.
            BundleError: a file is missing, too large, not UTF-8, or no template.
        """
        return ChatTemplate({name: _source(file, assets) for name, file in info.templates.items()}, info.special_tokens)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template: str | None = None,
        now: datetime.datetime | None = None,
        **variables: Any,
    ) -> str:
        """The prompt that a chat becomes. Encode it with `add_special_tokens=False`: the template writes them.

        Args:
            messages: the turns of the chat, at least one.
            tools: that the model may call, each as a JSON Schema.
            documents: that the model may read, each with a `title` and a `text`.
            add_generation_prompt: end with what begins the model's next turn.
            continue_final_message: end within the last turn, so that the model continues it.
            template: name of one; None takes `tool_use` where there are tools and such a template, else `default`.
            now: what the template takes for the time; None for the time of the machine.
            variables: what else the template reads, such as `enable_thinking`.

        Raises:
            ChatTemplateError: the template refuses the chat, or fails, or takes too long.
            InputError: no messages, or something that is none.
            UnknownNameError: no template of that name.
        """
        source_name = self._choose(template, has_tools=tools is not None)
        chat = _messages(messages)
        if continue_final_message:
            if add_generation_prompt:
                raise InputError(
                    "the last message cannot be continued, and a new one begun", hint="set add_generation_prompt False"
                )
            final = _mark_final(chat)
        text = self._compiled[source_name].render(
            {
                **self.special_tokens,
                **{name: _plain(value, name) for name, value in variables.items()},
                "messages": chat,
                "tools": None if tools is None else _objects("tools", tools),
                "documents": None if documents is None else _objects("documents", documents),
                "add_generation_prompt": add_generation_prompt,
            },
            now=now,
        )
        return _cut_behind(final, text) if continue_final_message else text

    def _choose(self, template: str | None, *, has_tools: bool) -> str:
        if template is None:
            return TOOL_TEMPLATE if has_tools and TOOL_TEMPLATE in self.templates else DEFAULT_TEMPLATE
        if template not in self.templates:
            raise UnknownNameError("chat template", template, self.templates)
        return template


def _source(file: str, assets: Mapping[str, bytes]) -> str:
    if file not in assets:
        raise BundleError(f"the program has no file {file!r}, which its chat template is in", hint="export it again")
    data = assets[file]
    if len(data) > MAX_TEMPLATE_BYTES:
        raise BundleError(f"{file} has {len(data):,} bytes", hint=f"at most {MAX_TEMPLATE_BYTES:,} are allowed")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise BundleError(f"{file} is not UTF-8: {err}", hint="the file is damaged: get it again") from err


def _messages(messages: object) -> list[dict[str, Any]]:
    """A fresh copy of the turns, with what a template expects: no values of None, reasoning under two names."""
    chat = _objects("messages", messages)
    if not chat:
        raise InputError("a chat has no messages", hint="give at least one, such as {'role': 'user', 'content': 'Hi'}")
    chat = [{key: value for key, value in message.items() if value is not None} for message in chat]
    for i, message in enumerate(chat):
        reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
        if reasoning is not None:
            chat[i] = {"thinking": reasoning, **message, "reasoning_content": reasoning}
    return chat


def _objects(what: str, values: object) -> list[dict[str, Any]]:
    if not isinstance(values, (list, tuple)):
        raise InputError(f"{what} is {shown(values)}", hint="must be a list of objects")
    for i, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise InputError(f"{what}[{i}] is {shown(value)}", hint="must be an object, such as {'role': 'user', ...}")
    plain: list[dict[str, Any]] = _plain(list(values), what)
    return plain


def _plain(value: object, where: str, depth: int = 0) -> Any:
    """A copy made of plain JSON types: an object of another type may have methods that a template must not reach."""
    if depth > MAX_DEPTH:
        raise InputError(f"{where} is nested deeper than {MAX_DEPTH}", hint="give plain values")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if any(0xD800 <= ord(char) < 0xE000 for char in value):
            raise InputError(f"{where} holds half of a surrogate pair", hint="remove that character")
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {_plain(key, where, depth + 1): _plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise InputError(f"{where} is a {type(value).__name__}", hint="must be made of text, numbers, lists and objects")


def _mark_final(chat: list[dict[str, Any]]) -> str:
    """Mark the end of the last turn's text; gives that text."""
    content = chat[-1].get("content")
    if isinstance(content, list):
        block = next((b for b in reversed(content) if isinstance(b, dict) and isinstance(b.get("text"), str)), None)
        if block is not None:
            text: str = block["text"]
            block["text"] = text + _TAG
            return text
    if not isinstance(content, str):
        raise InputError("the last message has no text to continue", hint="give it a 'content'")
    chat[-1]["content"] = content + _TAG
    return content


def _cut_behind(final: str, text: str) -> str:
    """The prompt up to where the last turn's text ends."""
    at = text.rfind(_TAG.strip())
    if at < 0 or final.strip() not in text:
        raise InputError(
            "the chat template does not write the last message as it is, so that it cannot be continued",
            hint="leave continue_final_message out",
        )
    # A template that strips its texts has stripped the mark, too.
    return text[:at] if text.startswith(_TAG, at) else text[:at].rstrip()
