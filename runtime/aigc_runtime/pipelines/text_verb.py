"""Text of the verb `generate`: to the terminal, piece by piece, or as JSON."""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.io.arguments import path_argument, text_argument
from aigc_runtime.io.messages_file import Chat, read_chats
from aigc_runtime.io.prompt_file import read_prompt
from aigc_runtime.io.report import emit_json
from aigc_runtime.pipelines.chat import chat_ids
from aigc_runtime.pipelines.kind import Option, Verb
from aigc_runtime.pipelines.options import PROMPT, SEED, given
from aigc_runtime.pipelines.prompts import Prompt
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
    token_ids,
)
from aigc_runtime.system.streams import output_lost

__all__ = ["TEXT_VERB", "result_json", "tell_full", "tell_notes"]

_GROUP = "text"
PROMPT_FILE = Option(
    flags=("--prompt-file",),
    name="prompt_file",
    group=_GROUP,
    type=path_argument,
    metavar="FILE",
    help="the same from a file, - for standard input",
)
CHAT = Option(
    flags=("--chat",),
    name="chat",
    group=_GROUP,
    type=text_argument,
    metavar="TEXT",
    help="what a user says, written by the model's chat template",
)
MESSAGES = Option(
    flags=("--messages",),
    name="messages",
    group=_GROUP,
    type=path_argument,
    metavar="FILE",
    help="chats from a file of JSON or JSON Lines, - for standard input",
)
TOKEN_IDS = Option(
    flags=("--token-ids",),
    name="token_ids",
    group=_GROUP,
    type=token_ids,
    metavar="IDS",
    help="a prompt as token ids, such as 1,2,3; ids are printed",
)
NUM_RETURN_SEQUENCES = Option(
    flags=("--num-return-sequences",),
    name="num_return_sequences",
    group=_GROUP,
    type=int,
    metavar="N",
    help="results for each prompt (default: 1)",
)
LOGPROBS = Option(
    flags=("--logprobs",),
    name="logprobs",
    group=_GROUP,
    type=int,
    metavar="K",
    help="with --json: log probabilities of each token and of the K most likely ones",
)

_SOURCES = (PROMPT, PROMPT_FILE, CHAT, MESSAGES, TOKEN_IDS)


@dataclass(frozen=True, kw_only=True)
class _TextJob:
    """Prompts to continue.

    Attributes:
        prompts: texts, ids, or chats, all of one sort.
        options: of `TextPipeline.generate`.
        json: print one JSON document.
        streams: whether the only result can be shown as it comes.
    """

    prompts: Sequence[str | tuple[int, ...] | Chat]
    options: dict[str, Any]
    json: bool
    streams: bool
    output: None = None
    bounds_memory: bool = False

    def run(self, pipeline: TextPipeline) -> None:
        """Print the text as it comes, or all of it at the end, or one JSON document."""
        prompts = [_as_prompt(pipeline, prompt, i, len(self.prompts)) for i, prompt in enumerate(self.prompts)]
        if self.streams:
            first = self.prompts[0]
            _show(pipeline.stream(prompts[0], **self.options), first if isinstance(first, str) else "", pipeline)
            return
        results = pipeline.generate(prompts, **self.options)
        if self.json:
            each = len(results) // len(prompts)
            emit_json(
                "aigc-run-generate-text/1",
                {
                    "prompts": [_prompt_json(prompt) for prompt in self.prompts],
                    "results": [{"prompt": i // each, **result_json(result)} for i, result in enumerate(results)],
                },
            )
            return
        for i, result in enumerate(results):
            if len(results) > 1:
                sys.stdout.write(f"--- {i + 1} of {len(results)} ---\n")
            prompt = self.prompts[i * len(self.prompts) // len(results)]
            if isinstance(prompt, str):
                sys.stdout.write(prompt)
            ids = ",".join(map(str, result.token_ids.tolist()))
            sys.stdout.write((ids if _is_ids(prompt) else result.text) + "\n")
        for result in results:
            tell_full(result, pipeline)

    def report(self) -> None:
        """Nothing: the text is all there is to say."""


def _is_ids(prompt: object) -> bool:
    return isinstance(prompt, tuple) and not isinstance(prompt, Chat)


def _as_prompt(pipeline: TextPipeline, prompt: str | tuple[int, ...] | Chat, number: int, count: int) -> Prompt:
    if not isinstance(prompt, Chat):
        return prompt
    try:
        return chat_ids(pipeline, prompt.messages, tools=prompt.tools)
    except InputError as err:
        if count == 1:
            raise
        raise InputError(f"chat {number + 1} of {count:,}: {err.message}", hint=err.hint) from err


def _prompt_json(prompt: str | tuple[int, ...] | Chat) -> dict[str, Any]:
    if isinstance(prompt, Chat):
        tools = {} if prompt.tools is None else {"tools": list(prompt.tools)}
        return {"messages": [dict(message) for message in prompt.messages], **tools}
    return {"text": prompt} if isinstance(prompt, str) else {"token_ids": list(prompt)}


def result_json(result: TextResult) -> dict[str, Any]:
    """A result as plain JSON."""
    noted = result.logprobs
    logprobs = None
    if noted is not None:
        logprobs = {
            "chosen": _finite(noted.chosen),
            "top_ids": noted.top_ids.tolist(),
            "top": [_finite(row) for row in noted.top],
        }
    return {
        "text": result.text,
        "token_ids": result.token_ids.tolist(),
        "finish_reason": result.finish_reason,
        "prompt_tokens": result.prompt_tokens,
        "time_to_first_token_s": result.time_to_first_token_s,
        "tokens_per_second": result.tokens_per_second,
        "logprobs": logprobs,
        "score": result.score,
    }


def _finite(values: Array) -> list[float | None]:
    """Numbers of JSON: a token that cannot come has none."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


def tell_notes(notes: Sequence[str]) -> None:
    """Say something on standard error beside the result."""
    for note in notes:
        sys.stderr.write(f"note: {note}\n")


def tell_full(result: TextResult, pipeline: TextPipeline) -> None:
    """Say on standard error that a text ended because the context is full."""
    if result.finish_reason == "context":
        tell_notes([f"the context of {pipeline.engines.context_length:,} tokens is full"])


def _show(stream: Generator[str, None, TextResult], before: str, pipeline: TextPipeline) -> None:
    sys.stdout.write(before)
    while not output_lost():
        try:
            sys.stdout.write(next(stream))
        except StopIteration as end:
            sys.stdout.write("\n")
            tell_full(end.value, pipeline)
            return
        sys.stdout.flush()


def _prepare(arguments: Namespace, pipeline: TextPipeline) -> _TextJob:
    named = given(arguments, *_SOURCES)
    if len(named) != 1:
        flags = ", ".join(option.flags[-1] for option in _SOURCES)
        raise InputError("text needs a prompt", hint=f"give exactly one of {flags}")
    sampling = sampling_options(arguments)
    chosen = pipeline.choose(None, sampling)
    more = given(arguments, MAX_NEW_TOKENS, STOP, SEED, NUM_RETURN_SEQUENCES, LOGPROBS, PREFILL_CHUNK, PROMPT_LOOKUP)
    tell_notes(check_options(pipeline, chosen, {**sampling, **more}))
    if LOGPROBS.name in more and not arguments.json:
        raise InputError("--logprobs without --json", hint="log probabilities are part of the JSON document")
    prompts = _prompts(arguments, pipeline)
    alone = len(prompts) == 1 and more.get(NUM_RETURN_SEQUENCES.name, 1) == 1 and chosen.num_beams == 1
    streams = alone and not arguments.json and not _is_ids(prompts[0])
    if streams:
        more.pop(NUM_RETURN_SEQUENCES.name, None)
    return _TextJob(prompts=prompts, options={**sampling, **more}, json=arguments.json, streams=streams)


def _prompts(arguments: Namespace, pipeline: TextPipeline) -> Sequence[str | tuple[int, ...] | Chat]:
    if arguments.chat is not None or arguments.messages is not None:
        require_chat(pipeline.settings)
    if arguments.system is not None and arguments.chat is None:
        raise InputError("--system without --chat", hint="a system message belongs to --chat; --messages has its own")
    if arguments.chat is not None:
        system = [] if arguments.system is None else [{"role": "system", "content": arguments.system}]
        return [Chat([*system, {"role": "user", "content": arguments.chat}])]
    if arguments.messages is not None:
        return read_chats(arguments.messages)
    if arguments.token_ids is not None:
        return [arguments.token_ids]
    return [arguments.prompt if arguments.prompt is not None else read_prompt(arguments.prompt_file)]


TEXT_VERB = Verb(
    options=(
        *_SOURCES,
        SYSTEM,
        MAX_NEW_TOKENS,
        NUM_RETURN_SEQUENCES,
        LOGPROBS,
        STOP,
        PREFILL_CHUNK,
        PROMPT_LOOKUP,
        *SAMPLING,
        SEED,
    ),
    prepare=_prepare,
)
