"""Text generation: prefill, then one token after the other.

Shapes: B rows, S tokens of the longest prompt, K places whose logits are kept, V vocabulary.

Each row has its own generator, seeded with the request's seed plus the row's index, so that a row's text does not
depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from aigc_runtime.core.program import MAIN_ENGINE, OpenProgram, as_program
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import BundleError, ConfigError, InputError
from aigc_runtime.generation.logits import SamplingParams, sample_tokens
from aigc_runtime.generation.rng import TorchGenerator, check_seed
from aigc_runtime.generation.tokenizers import StreamDecoder, Tokenizer, make_tokenizer
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.arguments import check_count, require_tensors
from aigc_runtime.pipelines.kind import SINGLE_ENGINE, Roles, require_roles
from aigc_runtime.pipelines.settings import TextSettings

__all__ = [
    "DECODE",
    "INPUT_IDS",
    "KEPT",
    "LOGITS",
    "LOGITS_TO_KEEP",
    "PAD_LENGTH",
    "PREFILL",
    "FinishReason",
    "TextPipeline",
    "TextResult",
    "text_tokenizer",
]

INPUT_IDS = "input_ids"
PAD_LENGTH = "pad_length"
LOGITS_TO_KEEP = "logits_to_keep"
LOGITS = "logits"
"""The tensors of a language model, its carried state aside."""

KEPT = "kept"
"""The dimension that says of how many places a run computes logits."""

PREFILL, DECODE = "prefill", "decode"
"""Roles of two engines over one carried state: one reads the prompt, the other the tokens after it."""

FinishReason = Literal["length", "context", "stop", "eos", "cancelled"]
Cancel = Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class TextResult:
    """One row's result.

    Attributes:
        text: generated text, without the prompt, and without the stop string it ended at.
        token_ids: int64 [n], every generated token, those of a stop string included.
        finish_reason: `length` (as many tokens as asked for), `context` (the model's context is full), `stop` (a stop
            string), `eos` (the end-of-text token) or `cancelled`.
        prompt_tokens: tokens of the prompt.
    """

    text: str
    token_ids: Array
    finish_reason: FinishReason
    prompt_tokens: int


def text_tokenizer(settings: TextSettings) -> Tokenizer:
    """The tokenizer of a language model.

    Raises:
        UnknownNameError: an unknown kind.
        BundleError: settings that the kind does not take.
    """
    return make_tokenizer(
        settings.tokenizer, bos=settings.bos_token_id, others=(*settings.eos_token_ids, settings.pad_token_id)
    )


class _Row:
    """What is known of one row while it is generated."""

    def __init__(self, prompt: Array, generator: TorchGenerator) -> None:
        self.prompt = prompt
        self.generator = generator
        self.tokens: list[int] = []
        self.finish_reason: FinishReason | None = None

    def history(self) -> Array:
        return np.concatenate([self.prompt, np.asarray(self.tokens, dtype=np.int64)])


class TextPipeline:
    """Generates text with a language model.

    Args:
        program: one engine, or the session of it, with the inputs `input_ids` [B, S], `pad_length` [B] and
            `logits_to_keep` [K], the output `logits` [B, K, V], and carried state; or two such engines over one state.
            Only the logits of the last place are ever asked for.
        settings: tokenizer, context and special tokens.
        roles: which engine is the `model`; or which is `prefill`, for prompts, and which `decode`, for every token
            after.

    Raises:
        ConfigError: other roles, an engine has other inputs or outputs, or other sizes, or two share no state.
        BundleError: tokenizer settings that this runtime cannot use, or more tokens than the engine knows.
    """

    def __init__(self, program: OpenProgram | Session, settings: TextSettings, roles: Roles = SINGLE_ENGINE) -> None:
        require_roles("text", roles, (MAIN_ENGINE,), (PREFILL, DECODE))
        self.program = as_program(program)
        self.prefill = roles.get(PREFILL) or roles[MAIN_ENGINE]
        self.decode = roles.get(DECODE) or self.prefill
        for engine in dict.fromkeys((self.prefill, self.decode)):
            require_tensors(
                self.program.session(engine),
                inputs={
                    INPUT_IDS: ("int64", (None, None)),
                    PAD_LENGTH: ("int64", (None,)),
                    LOGITS_TO_KEEP: ("int64", (None,)),
                },
                outputs={LOGITS: ("float32", (None, None, settings.vocab_size))},
            )
        if self.prefill != self.decode:
            _check_one_state(self.program, self.prefill, self.decode)
        self.settings = settings
        self.tokenizer = text_tokenizer(settings)
        if self.tokenizer.vocab_size > settings.vocab_size:
            raise BundleError(
                f"the tokenizer has {self.tokenizer.vocab_size} tokens, the engine {settings.vocab_size}",
                hint="export the model again with the tokenizer that it was trained with",
            )

    def close(self) -> None:
        """Close the program."""
        self.program.close()

    def __enter__(self) -> TextPipeline:
        """The pipeline, its program closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the program."""
        self.close()

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        max_new_tokens: int = 128,
        sampling: SamplingParams | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
        cancel: Cancel | None = None,
    ) -> list[TextResult]:
        """Continue prompts of any lengths together.

        Args:
            prompts: one or several.
            max_new_tokens: at least 1.
            sampling: how tokens are chosen; None is greedy.
            seed: row i draws from seed + i.
            stop: generation of a row ends where its text first contains one of these.
            cancel: asked before every token; True ends all rows with what they have.

        Returns:
            One result per prompt.

        Raises:
            InputError: an empty prompt, one longer than the context, or a bad argument.
            EngineError: the engine failed.
        """
        given = [prompts] if isinstance(prompts, str) else _listed(prompts)
        _check_stop(stop)
        rows = self._rows(given, seed)
        texts = [_StopWatch(self.tokenizer.stream(), stop) for _ in rows]

        def on_token(index: int, token: int) -> bool:
            texts[index].feed(token)
            return texts[index].stopped

        self._run(rows, max_new_tokens, sampling or SamplingParams(), cancel, on_token)
        for text in texts:
            text.finish()
        return [
            TextResult(
                text=text.emitted,
                token_ids=np.asarray(row.tokens, dtype=np.int64),
                finish_reason=row.finish_reason or "cancelled",
                prompt_tokens=len(row.prompt),
            )
            for row, text in zip(rows, texts, strict=True)
        ]

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 128,
        sampling: SamplingParams | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
        cancel: Cancel | None = None,
    ) -> Iterator[str]:
        """Continue one prompt, piece by piece; the pieces joined are the text that `generate` returns.

        Never yields half a character, nor text that could still turn out to be part of a stop string. Closing the
        iterator ends the generation. Arguments and errors as in `generate`; bad arguments raise at once.
        """
        _check_stop(stop)
        rows = self._rows([prompt], seed)
        steps = self._steps(rows, max_new_tokens, sampling or SamplingParams(), cancel)
        return self._stream(steps, rows[0], _StopWatch(self.tokenizer.stream(), stop))

    @staticmethod
    def _stream(steps: Iterator[Array], row: _Row, text: _StopWatch) -> Iterator[str]:
        for tokens in steps:
            if row.finish_reason == "eos":
                break
            piece = text.feed(int(tokens[0]))
            if piece:
                yield piece
            if text.stopped:
                return
        if piece := text.finish():
            yield piece

    def _rows(self, prompts: list[str], seed: int) -> list[_Row]:
        if not prompts:
            raise InputError("no prompt was given", hint="give at least one")
        base, limit = check_seed(seed), self.settings.context_length
        rows = []
        for i, prompt in enumerate(prompts):
            if not isinstance(prompt, str):
                raise InputError(f"prompt {i} is a {type(prompt).__name__}", hint="prompts are strings")
            ids = self.tokenizer.encode(prompt)
            if len(ids) == 0:
                raise InputError(f"prompt {i} is empty", hint="give at least one character to continue from")
            if len(ids) >= limit:
                raise InputError(
                    f"prompt {i} has {len(ids)} tokens, the context holds {limit}",
                    hint=f"shorten it to at most {limit - 1} tokens, so that one can be generated",
                )
            rows.append(_Row(ids, TorchGenerator((base + i) % 2**64)))
        return rows

    def _run(
        self,
        rows: list[_Row],
        max_new_tokens: int,
        sampling: SamplingParams,
        cancel: Cancel | None,
        on_token: Callable[[int, int], bool],
    ) -> None:
        """Generate until every row is done; `on_token(row, token)` says whether a stop string was met."""
        for tokens in self._steps(rows, max_new_tokens, sampling, cancel):
            for i, row in enumerate(rows):
                if row.finish_reason in (None, "length", "context") and tokens[i] >= 0 and on_token(i, int(tokens[i])):
                    row.finish_reason = "stop"

    def _steps(
        self, rows: list[_Row], max_new_tokens: int, sampling: SamplingParams, cancel: Cancel | None
    ) -> Iterator[Array]:
        return self._generate_steps(rows, check_count("max_new_tokens", max_new_tokens), sampling, cancel)

    def _generate_steps(
        self, rows: list[_Row], max_new_tokens: int, sampling: SamplingParams, cancel: Cancel | None
    ) -> Iterator[Array]:
        """Yield the tokens of every step, [B] int64, -1 for rows that are done; fills in the rows."""
        longest = max(len(row.prompt) for row in rows)
        pad_B = np.array([longest - len(row.prompt) for row in rows], dtype=np.int64)
        ids_BS = np.full((len(rows), longest), self.settings.pad_token_id, dtype=np.int64)
        for i, row in enumerate(rows):
            ids_BS[i, pad_B[i] :] = row.prompt
        last = np.array([longest - 1], dtype=np.int64)
        feeds, engine = {INPUT_IDS: ids_BS, PAD_LENGTH: pad_B, LOGITS_TO_KEEP: last}, self.prefill
        state = self.program.new_state(len(rows))
        generators = [row.generator for row in rows]
        penalized = sampling.repetition_penalty != 1.0
        # The batch shares one cache, so its longest row fills the context first; padding counts towards it.
        room = min(max_new_tokens, self.settings.context_length - longest)
        for step in range(room):
            if cancel is not None and cancel():
                break
            logits_BV = self.program.run(engine, feeds, state)[LOGITS][:, -1]
            history = [row.history() for row in rows] if penalized else ()
            tokens_B = sample_tokens(logits_BV, sampling, generators, history)
            yield self._accept(rows, tokens_B, last=step + 1 == room, full=room < max_new_tokens)
            if all(row.finish_reason is not None for row in rows):
                return
            if step == 0:
                engine = self.decode
                ids_BS, last = np.empty((len(rows), 1), dtype=np.int64), np.zeros(1, dtype=np.int64)
                feeds = {INPUT_IDS: ids_BS, PAD_LENGTH: pad_B, LOGITS_TO_KEEP: last}
            feeds[INPUT_IDS][:, 0] = tokens_B
        for row in rows:
            row.finish_reason = row.finish_reason or "cancelled"

    def _accept(self, rows: list[_Row], tokens_B: Array, *, last: bool, full: bool) -> Array:
        told = tokens_B.copy()
        for i, row in enumerate(rows):
            if row.finish_reason is not None:
                told[i] = -1
                continue
            row.tokens.append(int(tokens_B[i]))
            if row.tokens[-1] in self.settings.eos_token_ids:
                row.finish_reason, told[i] = "eos", -1
            elif last:
                row.finish_reason = "context" if full else "length"
        return told


def _check_one_state(program: OpenProgram, prefill: str, decode: str) -> None:
    """Refuse two engines of which one would not go on with what the other has read."""
    states = [program.states.get(engine) for engine in (prefill, decode)]
    specs = [program.session(engine).interface.state for engine in (prefill, decode)]
    if states[0] is None or states[0] != states[1] or specs[0] != specs[1]:
        raise ConfigError(
            f"the engines {prefill!r} and {decode!r} do not share a carried state",
            hint=f"{DECODE} goes on with what {PREFILL} has read: both must name one state",
        )


def _listed(prompts: Sequence[str]) -> list[str]:
    try:
        return list(prompts)
    except TypeError as err:
        raise InputError(f"prompts is {shown(prompts)}", hint="must be a string, or a list of strings") from err


def _check_stop(stop: Sequence[str]) -> None:
    if not isinstance(stop, (list, tuple)) or not all(isinstance(s, str) and s for s in stop):
        raise InputError(f"stop is {shown(stop)}", hint="must be a list of strings, none of them empty")


class _StopWatch:
    """Text that grows piece by piece, cut before the first stop string."""

    def __init__(self, decoder: StreamDecoder, stop: Sequence[str]) -> None:
        self._decoder = decoder
        self._stop = tuple(stop)
        self._held = ""
        self.emitted = ""
        self.stopped = False

    def feed(self, token: int) -> str:
        """The text that can be shown after this token."""
        if self.stopped:
            return ""
        self._held += self._decoder.feed(token)
        return self._release()

    def finish(self) -> str:
        """The rest, once no more tokens come."""
        if self.stopped:
            return ""
        self._held += self._decoder.finish()
        piece = self._release()
        rest, self._held = self._held, ""
        self.emitted += rest
        return piece + rest

    def _release(self) -> str:
        cuts = [at for at in (self._held.find(s) for s in self._stop) if at >= 0]
        if cuts:
            self.stopped = True
            piece = self._held[: min(cuts)]
            self._held = ""
        else:
            keep = self._undecided()
            piece, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self.emitted += piece
        return piece

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(s) for s in self._stop), default=1) - 1
        for n in range(min(longest, len(self._held)), 0, -1):
            if any(s.startswith(self._held[-n:]) for s in self._stop):
                return n
        return 0
