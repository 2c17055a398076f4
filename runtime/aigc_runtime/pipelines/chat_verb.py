"""The verb `chat`: a conversation, line by line, on a terminal or through a pipe."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from aigc_runtime.errors import InputError
from aigc_runtime.io.printable import printable
from aigc_runtime.io.prompt_file import MAX_PROMPT_BYTES
from aigc_runtime.io.report import emit_json
from aigc_runtime.pipelines.chat import ChatSession
from aigc_runtime.pipelines.kind import Verb
from aigc_runtime.pipelines.options import SEED, given
from aigc_runtime.pipelines.text import TextPipeline, TextResult, require_chat
from aigc_runtime.pipelines.text_options import (
    MAX_NEW_TOKENS,
    PREFILL_CHUNK,
    PROMPT_LOOKUP,
    SAMPLING,
    STOP,
    SYSTEM,
    check_options,
    sampling_options,
)
from aigc_runtime.pipelines.text_reading import Cancel
from aigc_runtime.pipelines.text_verb import result_json, tell_full, tell_notes
from aigc_runtime.system.interrupts import first_interrupt_asks
from aigc_runtime.system.streams import output_lost

__all__ = ["CHAT_VERB"]

_HELP = """/reset begins anew, /system TEXT does with another system message, /exit or the end of the input ends
a line that begins with // is a message that begins with /; Ctrl-C ends an answer
"""


@dataclass(frozen=True, kw_only=True)
class _ChatJob:
    """A conversation.

    Attributes:
        system: the message that it begins with.
        options: of `ChatSession.send`.
        json: print one JSON document at the end, in place of the answers.
    """

    system: str | None
    options: dict[str, Any]
    json: bool
    output: None = None
    bounds_memory: bool = False

    def run(self, pipeline: TextPipeline) -> None:
        """Answer line by line until the input ends."""
        chat, turns = ChatSession(pipeline, system=self.system), list[dict[str, Any]]()
        for line in _lines():
            if line.startswith("/") and not line.startswith("//"):
                if not _obey(chat, line):
                    break
                continue
            # At a terminal Ctrl-C ends the answer; where nobody types, it ends the program.
            with first_interrupt_asks() if sys.stdin.isatty() else nullcontext() as asked:
                stream = self._asked(chat, line.removeprefix("/") if line.startswith("//") else line, asked)
                result = None if stream is None else self._show(stream)
            if result is not None:
                turns.append({**result_json(result), "reused_tokens": chat.reused_tokens})
                self._tell(result, chat)
            elif output_lost():
                break
        if self.json:
            emit_json("aigc-run-chat/1", {"messages": [dict(message) for message in chat.messages], "turns": turns})

    def _asked(self, chat: ChatSession, text: str, cancel: Cancel | None) -> Iterator[str] | None:
        """What answers a message; None where it is refused, which is told at a terminal."""
        try:
            return chat.send(text, cancel=cancel, **self.options)
        except InputError as err:
            if not sys.stdin.isatty():
                raise
            sys.stderr.write(f"error: {printable(err.message)}\n  {printable(err.hint)}\n")
            return None

    def _show(self, stream: Iterator[str]) -> TextResult | None:
        """Print an answer as it comes; None where nobody reads it any more."""
        while not output_lost():
            try:
                piece = next(stream)
            except StopIteration as end:
                if not self.json:
                    sys.stdout.write("\n")
                    sys.stdout.flush()
                result: TextResult = end.value
                return result
            if not self.json:
                sys.stdout.write(piece)
                sys.stdout.flush()
        return None

    def _tell(self, result: TextResult, chat: ChatSession) -> None:
        tell_full(result, chat.pipeline)
        if result.finish_reason == "cancelled":
            tell_notes(["the answer was broken off; what there is of it stays in the conversation"])
        if not sys.stderr.isatty() or result.time_to_first_token_s is None:
            return
        speed = "" if result.tokens_per_second is None else f", {result.tokens_per_second:,.1f} tokens/s"
        sys.stderr.write(
            f"[{len(result.token_ids):,} tokens{speed}; the first after {result.time_to_first_token_s:.2f} s; "
            f"{chat.reused_tokens:,} of {result.prompt_tokens:,} tokens of the prompt were held]\n"
        )

    def report(self) -> None:
        """Nothing: the conversation is all there is to say."""


def _lines() -> Iterator[str]:
    """What the user says: lines of standard input, without those that are blank.

    Raises:
        InputError: one that is not UTF-8, or has no end.
    """
    number = 0
    while True:
        if sys.stdin.isatty():
            sys.stderr.write("> ")
            sys.stderr.flush()
        data = sys.stdin.buffer.readline(MAX_PROMPT_BYTES + 1)
        number += 1
        if not data:
            return
        if len(data) > MAX_PROMPT_BYTES:
            raise InputError(f"line {number} is longer than {MAX_PROMPT_BYTES:,} bytes", hint="say less at once")
        try:
            line = data.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as err:
            raise InputError(f"line {number} is not UTF-8: byte {err.start + 1}", hint="give text in UTF-8") from err
        if line.strip():
            yield line


def _reset(chat: ChatSession, _argument: str) -> None:
    chat.reset()


def _system(chat: ChatSession, argument: str) -> None:
    chat.reset(system=argument)


_COMMANDS: dict[str, Callable[[ChatSession, str], None]] = {"/reset": _reset, "/system": _system}


def _obey(chat: ChatSession, line: str) -> bool:
    """Do what a command says; False to end."""
    name, _, argument = line.strip().partition(" ")
    if name == "/exit":
        return False
    if name in _COMMANDS:
        _COMMANDS[name](chat, argument.strip())
    else:
        if name != "/help":
            sys.stderr.write(f"there is no command {printable(name)}\n")
        sys.stderr.write(_HELP)
    return True


def _prepare(arguments: Namespace, pipeline: TextPipeline) -> _ChatJob:
    require_chat(pipeline.settings)
    sampling = sampling_options(arguments)
    chosen = pipeline.choose(None, sampling, streams=True)
    more = given(arguments, MAX_NEW_TOKENS, STOP, SEED, PREFILL_CHUNK, PROMPT_LOOKUP)
    tell_notes(check_options(pipeline, chosen, {**sampling, **more}))
    return _ChatJob(system=arguments.system, options={**sampling, **more}, json=arguments.json)


CHAT_VERB = Verb(
    options=(SYSTEM, MAX_NEW_TOKENS, STOP, PREFILL_CHUNK, PROMPT_LOOKUP, *SAMPLING, SEED), prepare=_prepare
)
