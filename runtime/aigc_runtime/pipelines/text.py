"""Text generation: prompts in, text out.

Each row has its own generator, seeded with the request's seed plus the row's index, so that a row's text does not
depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aigc_runtime.core.program import MAIN_ENGINE, OpenProgram, as_program
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.generation.tokenizers import Tokenizer, TokenizerRequest, make_tokenizer
from aigc_runtime.pipelines.arguments import check_count
from aigc_runtime.pipelines.kind import SINGLE_ENGINE, Roles, require_roles
from aigc_runtime.pipelines.prompts import Prompt, listed_prompts
from aigc_runtime.pipelines.settings import TextSettings
from aigc_runtime.pipelines.stop_strings import StopWatch, check_stop
from aigc_runtime.pipelines.text_loop import Cancel, TextLoop
from aigc_runtime.pipelines.text_rows import FinishReason, Row, make_rows
from aigc_runtime.pipelines.text_tensors import (
    DECODE,
    INPUT_IDS,
    KEPT,
    LOGITS,
    LOGITS_TO_KEEP,
    PAD_LENGTH,
    PREFILL,
    require_engines,
)

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


def text_tokenizer(settings: TextSettings, assets: Mapping[str, bytes] | None) -> Tokenizer:
    """The tokenizer of a language model.

    Args:
        settings: of its pipeline.
        assets: of its program.

    Raises:
        UnknownNameError: an unknown kind.
        TextSupportMissingError: its package is not installed; the hint is the install line.
        BundleError: settings or files that the kind does not take, or more tokens than the model knows.
    """
    return make_tokenizer(
        TokenizerRequest(
            info=settings.tokenizer,
            vocab_size=settings.vocab_size,
            assets=assets,
            bos=settings.bos_token_id,
            others=(*settings.eos_token_ids, settings.pad_token_id),
        )
    )


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
        BundleError: see `text_tokenizer`, also for the next one.
        TextSupportMissingError: the package of its tokenizer is not installed.
    """

    def __init__(self, program: OpenProgram | Session, settings: TextSettings, roles: Roles = SINGLE_ENGINE) -> None:
        require_roles("text", roles, (MAIN_ENGINE,), (PREFILL, DECODE))
        self.program = as_program(program)
        self.prefill = roles.get(PREFILL) or roles[MAIN_ENGINE]
        self.decode = roles.get(DECODE) or self.prefill
        require_engines(self.program, self.prefill, self.decode, settings.vocab_size)
        self.settings = settings
        self.tokenizer = text_tokenizer(settings, self.program.assets)

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
        prompts: Prompt | Sequence[Prompt],
        *,
        max_new_tokens: int = 128,
        sampling: SamplingParams | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
        cancel: Cancel | None = None,
        **options: Any,
    ) -> list[TextResult]:
        """Continue prompts of any lengths together.

        Args:
            prompts: one or several, each a text or its token ids, integers [n].
            max_new_tokens: at least 1.
            sampling: how tokens are chosen; None takes the model's own way, `settings.sampling`.
            seed: row i draws from seed + i.
            stop: generation of a row ends where its text first contains one of these.
            cancel: asked before every token; True ends all rows with what they have.
            **options: fields of `SamplingParams` that are to have another value than `sampling` has.

        Returns:
            One result per prompt.

        Raises:
            InputError: an empty prompt, one longer than the context, or a bad argument.
            EngineError: the engine failed.
        """
        chosen = self._sampling(sampling, options)
        check_stop(stop)
        rows = self._rows(listed_prompts(prompts), seed)
        texts = [StopWatch(self.tokenizer.stream(row.history.ids), stop) for row in rows]
        for tokens in self._steps(rows, max_new_tokens, chosen, cancel):
            for row, text, token in zip(rows, texts, tokens.tolist(), strict=True):
                if token >= 0:
                    text.feed(token)
                if text.stopped:
                    row.finish_reason = "stop"
        for text in texts:
            text.finish()
        return [
            TextResult(
                text=text.emitted,
                token_ids=row.tokens,
                finish_reason=row.finish_reason or "cancelled",
                prompt_tokens=row.prompt_tokens,
            )
            for row, text in zip(rows, texts, strict=True)
        ]

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 128,
        sampling: SamplingParams | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
        cancel: Cancel | None = None,
        **options: Any,
    ) -> Generator[str, None, None]:
        """Continue one prompt, piece by piece; the pieces joined are the text that `generate` returns.

        Never yields half a character, nor text that could still turn out to be part of a stop string. Closing the
        generator ends the generation. Arguments and errors as in `generate`; bad arguments raise at once.
        """
        chosen = self._sampling(sampling, options)
        check_stop(stop)
        rows = self._rows([prompt], seed)
        steps = self._steps(rows, max_new_tokens, chosen, cancel)
        return self._stream(steps, rows[0], StopWatch(self.tokenizer.stream(rows[0].history.ids), stop))

    @staticmethod
    def _stream(steps: Iterator[Array], row: Row, text: StopWatch) -> Generator[str, None, None]:
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

    def _sampling(self, sampling: SamplingParams | None, options: dict[str, Any]) -> SamplingParams:
        chosen = (self.settings.sampling if sampling is None else sampling).override(**options)
        chosen.check_vocabulary(self.settings.vocab_size)
        return chosen

    def _rows(self, prompts: Sequence[Prompt], seed: int) -> list[Row]:
        settings = self.settings
        return make_rows(
            prompts,
            self.tokenizer,
            vocab_size=settings.vocab_size,
            context_length=settings.context_length,
            seed=seed,
        )

    def _steps(
        self, rows: list[Row], max_new_tokens: int, sampling: SamplingParams, cancel: Cancel | None
    ) -> Iterator[Array]:
        loop = TextLoop(self.program, self.settings, self.prefill, self.decode)
        return loop.steps(rows, check_count("max_new_tokens", max_new_tokens), sampling, cancel)
