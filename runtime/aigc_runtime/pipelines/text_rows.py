"""The rows of a text generation: what is known of each while it grows."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.generation.history import TokenHistory
from aigc_runtime.generation.logprobs import top_logprobs
from aigc_runtime.generation.rng import TorchGenerator
from aigc_runtime.generation.tokenizers import Tokenizer
from aigc_runtime.pipelines.prompts import Prompt, prompt_ids
from aigc_runtime.pipelines.stop_strings import StopWatch
from aigc_runtime.pipelines.text_engines import TextEngines
from aigc_runtime.pipelines.text_result import FinishReason, TextResult, TokenLogprobs

__all__ = ["Row", "encode_prompts", "sequence_seed"]

_GOLDEN = 0x9E3779B9
"""2**32 over the golden ratio: its multiples fill 32 bits evenly."""


def sequence_seed(seed: int, row: int, sequence: int) -> int:
    """The seed of one result: row i's first is drawn from seed + i, whatever else is in the batch.

    >>> sequence_seed(7, 2, 0), sequence_seed(7, 2, 1) == sequence_seed(9, 0, 1)
    (9, True)
    """
    return (seed + row + sequence * _GOLDEN) % 2**64


class Row:
    """What is known of one row while it is generated.

    Args:
        prompt: its token ids [n].
        generator: of its random draws.
        text: takes its tokens.
        context_length: most tokens, prompt and generated together.
        max_new_tokens: most generated tokens.
        eos_token_ids: ids that end it.
        logprobs: how many of the most likely tokens are noted at each place; None notes nothing.
        started: when it was asked for, by `time.perf_counter`.

    Attributes:
        history: its tokens.
        finish_reason: why it ended; None while it goes on.
        room: the most tokens that can be generated.
        score: of a beam search.
    """

    def __init__(
        self,
        prompt: Array,
        *,
        generator: TorchGenerator,
        text: StopWatch,
        context_length: int,
        max_new_tokens: int,
        eos_token_ids: Sequence[int],
        logprobs: int | None,
        started: float,
    ) -> None:
        self.generator, self._text, self._eos, self._count = generator, text, eos_token_ids, logprobs
        self.history = TokenHistory(prompt)
        self.finish_reason: FinishReason | None = None
        self.room = min(max_new_tokens, context_length - len(prompt))
        self._when_full: FinishReason = "context" if self.room < max_new_tokens else "length"
        self._logprobs: list[tuple[float, Array, Array]] = []
        self._started, self._first, self._last = started, 0.0, 0.0
        self._pieces: list[str] = []
        self._is_told = False
        self.score: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""
        return self.finish_reason is None

    @property
    def left(self) -> int:
        """Tokens that can still be generated."""
        return self.room - len(self.history.generated)

    def accept(self, token: int, logits: Array | None) -> None:
        """Take a generated token, and end the row where it does.

        Args:
            token: its id.
            logits: [V], that the model gave for its place; only read where log probabilities are noted.
        """
        if self._count is not None and logits is not None:
            self._logprobs.append(top_logprobs(logits, token, self._count))
        self._last = time.perf_counter()
        if not len(self.history.generated):
            self._first = self._last
        self.history.append(token)
        if token in self._eos:
            self.finish_reason = "eos"
            return
        self._pieces.append(self._text.feed(token))
        if self._text.stopped:
            self.finish_reason = "stop"
        elif self.left <= 0:
            self.finish_reason = self._when_full

    def stream(self, steps: Iterator[None]) -> Generator[str, None, TextResult]:
        """The text piece by piece, as `steps` generate it; the pieces joined are the text of the result."""
        for _ in steps:
            if piece := self._take_text():
                yield piece
        result = self.result()
        if piece := self._take_text():
            yield piece
        return result

    def _take_text(self) -> str:
        taken, self._pieces = "".join(self._pieces), []
        return taken

    def result(self) -> TextResult:
        """What became of it; a row that goes on was cancelled."""
        self.finish_reason = self.finish_reason or "cancelled"
        if not self._is_told:
            self._is_told = True
            self._pieces.append(self._text.finish())
            if self._text.stopped:  # a decoder may tell the last characters only now
                self.finish_reason = "stop"
        tokens = self.history.generated
        later, seconds = len(tokens) - 1, self._last - self._first
        return TextResult(
            text=self._text.emitted,
            token_ids=tokens.copy(),
            finish_reason=self.finish_reason,
            prompt_tokens=self.history.prompt_length,
            time_to_first_token_s=self._first - self._started if len(tokens) else None,
            tokens_per_second=later / seconds if later > 0 and seconds > 0 else None,
            logprobs=self._noted(),
            score=self.score,
        )

    def _noted(self) -> TokenLogprobs | None:
        if self._count is None:
            return None
        shape = (len(self._logprobs), self._count)
        return TokenLogprobs(
            chosen=np.array([chosen for chosen, _, _ in self._logprobs], dtype=np.float64),
            top_ids=np.array([ids for _, ids, _ in self._logprobs], dtype=np.int64).reshape(shape),
            top=np.array([values for _, _, values in self._logprobs], dtype=np.float64).reshape(shape),
        )


def encode_prompts(prompts: Sequence[Prompt], tokenizer: Tokenizer, engines: TextEngines) -> list[Array]:
    """The token ids of prompts.

    Raises:
        InputError: no prompt, an empty one, unknown ids, or a prompt that fills the context.
    """
    if not prompts:
        raise InputError("no prompt was given", hint="give at least one")
    found, most, vocab_size = [], engines.context_length, engines.settings.vocab_size
    for i, prompt in enumerate(prompts):
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt_ids(i, prompt, vocab_size)
        if len(ids) == 0:
            raise InputError(f"prompt {i} is empty", hint="give at least one character to continue from")
        if len(ids) >= most:
            raise InputError(
                f"prompt {i} has {len(ids)} tokens, the context holds {most}",
                hint=f"shorten it to at most {most - 1} tokens, so that one can be generated",
            )
        found.append(ids)
    return found
