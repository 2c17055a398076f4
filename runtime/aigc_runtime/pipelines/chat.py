"""A conversation with a language model, whose carried state is kept from turn to turn."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.generation.chat import Message
from aigc_runtime.generation.rng import check_seed
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.arguments import check_count
from aigc_runtime.pipelines.prompt_lookup import check_lookup
from aigc_runtime.pipelines.text import TextPipeline
from aigc_runtime.pipelines.text_loop import grow
from aigc_runtime.pipelines.text_reading import Cancel, Reading
from aigc_runtime.pipelines.text_result import TextResult
from aigc_runtime.pipelines.text_rows import Row

__all__ = ["ChatSession", "chat_ids"]


def chat_ids(pipeline: TextPipeline, messages: Sequence[Message], **variables: Any) -> Array:
    """The token ids of a chat, up to where the model's next turn begins.

    Args:
        pipeline: of the model.
        messages: the turns so far.
        variables: of `ChatTemplate.render`, such as `tools`.

    Raises:
        InputError: no template, what it refuses, a chat that it writes nothing for, or one that fills the context.
    """
    ids = pipeline.tokenizer.encode(pipeline.chat_template.render(messages, **variables), add_special_tokens=False)
    if not len(ids):
        raise InputError("the chat template writes nothing for this chat", hint="give a message that is not empty")
    most = pipeline.engines.context_length
    if len(ids) >= most:
        raise InputError(
            f"the chat has {len(ids):,} tokens, the context holds {most:,}", hint="begin anew, or leave messages out"
        )
    return ids


class ChatSession:
    """A conversation.

    Each turn reads only the tokens behind the longest beginning that the carried state holds already; what it answers
    is what the model would answer if it read all of the conversation anew.

    Args:
        pipeline: of a model with a chat template. The session does not close it.
        system: the text of the message that begins the conversation.
        variables: of `ChatTemplate.render`, such as `tools` or `enable_thinking`, for every turn.

    Attributes:
        template: of the model.
        messages: the turns so far. They may be changed between two turns: the next one reads from there on.
        reused_tokens: of the last turn's prompt, how many did not have to be read.

    Raises:
        InputError: the model has no chat template.
    """

    def __init__(self, pipeline: TextPipeline, *, system: str | None = None, **variables: Any) -> None:
        self.pipeline = pipeline
        self.template = pipeline.chat_template
        self._system, self._variables = system, variables
        self._reading: Reading | None = None
        self._is_busy = False
        self.reused_tokens = 0
        self.messages: list[Message] = []
        self.reset()

    def reset(self, *, system: str | None = None) -> None:
        """Begin anew.

        Args:
            system: another text of the message that begins the conversation; None keeps the one there is.
        """
        self._system = self._system if system is None else system
        self.messages = [] if not self._system else [{"role": "system", "content": self._system}]

    @property
    def held_tokens(self) -> int:
        """Tokens that the carried state holds."""
        return 0 if self._reading is None else self._reading.length

    def send(self, text: str, **options: Any) -> Generator[str, None, TextResult]:
        """Say something, and get the answer piece by piece; see `reply`.

        Raises:
            InputError: as `reply`; the conversation stays as it was.
        """
        if not isinstance(text, str):
            raise InputError(f"a message is {shown(text)}", hint="must be a string")
        return self._turn([*self.messages, {"role": "user", "content": text}], **options)

    def reply(self, **options: Any) -> Generator[str, None, TextResult]:
        """Answer the conversation as it stands, piece by piece.

        The answer is added to `messages` once it is whole, or cancelled, or the generator is closed: then it is what
        there is of it. Where the engine fails, the conversation stays as it was.

        Args:
            options: those of `TextPipeline.stream`; `max_new_tokens` is what the context leaves by default.

        Returns:
            A generator whose return value is the result. `context` as its `finish_reason` says that nothing more can be
            said in this conversation.

        Raises:
            InputError: a conversation that fills the context, that the template refuses, or a bad argument.
        """
        return self._turn(list(self.messages), **options)

    def _turn(
        self,
        messages: list[Message],
        *,
        max_new_tokens: int | None = None,
        sampling: SamplingParams | None = None,
        seed: int = 0,
        stop: Sequence[str] | None = None,
        logprobs: int | None = None,
        prefill_chunk: int | None = None,
        prompt_lookup_num_tokens: int | None = None,
        cancel: Cancel | None = None,
        **options: Any,
    ) -> Generator[str, None, TextResult]:
        """Check everything now; generate once the generator is read."""
        pipeline = self.pipeline
        chosen = pipeline.choose(sampling, options, streams=True)
        chunk = None if prefill_chunk is None else check_count("prefill_chunk", prefill_chunk)
        lookup = check_lookup(prompt_lookup_num_tokens, chosen, pipeline.engines)
        # As many as the context has: what the prompt leaves of it is less, and so ends with `context`.
        most = pipeline.engines.context_length if max_new_tokens is None else max_new_tokens
        make = pipeline.row_maker(max_new_tokens=most, stop=stop, logprobs=logprobs)
        row = make(chat_ids(pipeline, messages, **self._variables), check_seed(seed))
        return self._answer(list(self.messages), messages, row, chosen, chunk, lookup, cancel)

    def _answer(
        self,
        before: list[Message],
        messages: list[Message],
        row: Row,
        sampling: SamplingParams,
        prefill_chunk: int | None,
        lookup: int,
        cancel: Cancel | None,
    ) -> Generator[str, None, TextResult]:
        if self._is_busy:
            raise InputError("a turn is under way", hint="read its answer to the end, or close it")
        if self.messages != before:
            raise InputError(
                "the conversation has changed since this answer was asked for", hint="read each answer before you go on"
            )
        self._is_busy, reading = True, self._taken(prefill_chunk)
        try:
            unread = self._unread(reading, row.history.ids)
            steps = grow([row], reading, unread, sampling, lookup=lookup, cancel=cancel)
            try:
                result = yield from row.stream(steps)
            except GeneratorExit:
                self._keep(messages, row.result(), reading)
                raise
            self._keep(messages, result, reading)
            return result
        finally:
            self._is_busy = False

    def _taken(self, prefill_chunk: int | None) -> Reading:
        """What is held so far; it is kept again once a turn has ended well."""
        reading, self._reading = self._reading, None
        if reading is None:
            rows = self.pipeline.engines.batch_of(1)
            reading = Reading(self.pipeline.engines, np.zeros(rows, dtype=np.int64))
        reading.prefill_chunk = prefill_chunk
        return reading

    def _unread(self, reading: Reading, ids: Array) -> Array:
        """Cut what is held back to the beginning that it shares with a prompt; the rest of the prompt, [B, S]."""
        held = reading.token_ids
        most = min(held.shape[1], len(ids) - 1)  # one token at least is read: its logits are those of the next
        differ = np.flatnonzero(held[0, :most] != ids[:most])
        reading.truncate(int(differ[0]) if len(differ) else most)
        self.reused_tokens = reading.length
        return np.repeat(ids[None, reading.length :], len(held), axis=0)

    def _keep(self, messages: list[Message], result: TextResult, reading: Reading) -> None:
        self._reading = reading
        self.messages = [*messages, {"role": "assistant", "content": result.text}]
