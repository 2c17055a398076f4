"""Text generation: prompts in, text out.

Each row has its own generator, seeded with the request's seed plus the row's index, so that a row's text does not
depend on what else is in the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.program import MAIN_ENGINE, OpenProgram, as_program
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.generation.chat import ChatInfo, ChatTemplate
from aigc_runtime.generation.rng import TorchGenerator, check_seed
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.arguments import check_count
from aigc_runtime.pipelines.kind import SINGLE_ENGINE, Roles, require_roles
from aigc_runtime.pipelines.prompt_lookup import check_lookup
from aigc_runtime.pipelines.prompts import Prompt, listed_prompts
from aigc_runtime.pipelines.settings import TextSettings
from aigc_runtime.pipelines.stop_strings import StopWatch, check_stop
from aigc_runtime.pipelines.text_beams import check_beams, search_beams
from aigc_runtime.pipelines.text_engines import TextEngines
from aigc_runtime.pipelines.text_loop import fitting_batches, generate_rows
from aigc_runtime.pipelines.text_reading import Cancel
from aigc_runtime.pipelines.text_result import FinishReason, TextResult, TokenLogprobs
from aigc_runtime.pipelines.text_rows import Row, encode_prompts, sequence_seed
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
from aigc_runtime.pipelines.text_tokenizer import text_tokenizer

__all__ = [
    "DECODE",
    "INPUT_IDS",
    "KEPT",
    "LOGITS",
    "LOGITS_TO_KEEP",
    "MAX_RESULTS",
    "PAD_LENGTH",
    "PREFILL",
    "FinishReason",
    "TextPipeline",
    "TextResult",
    "TokenLogprobs",
    "require_chat",
]


MAX_RESULTS = 10_000
"""Results of one request."""


def require_chat(settings: TextSettings) -> ChatInfo:
    """Refuse a model without a chat template.

    Raises:
        InputError: says what to do.
    """
    if settings.chat is None:
        raise InputError(
            "this model has no chat template, so that it takes no messages",
            hint="give it a prompt that is written as the model expects it",
        )
    return settings.chat


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
        self.engines = TextEngines(program=self.program, settings=settings, prefill=self.prefill, decode=self.decode)
        self.tokenizer = text_tokenizer(settings, self.program.assets)
        # Read now, since the bundle that they are in may be closed later; compiled where a chat is rendered.
        named, assets = {} if settings.chat is None else settings.chat.templates, self.program.assets or {}
        self._chat_files = {file: assets[file] for file in named.values() if file in assets}

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
        stop: Sequence[str] | None = None,
        num_return_sequences: int = 1,
        logprobs: int | None = None,
        prefill_chunk: int | None = None,
        prompt_lookup_num_tokens: int | None = None,
        cancel: Cancel | None = None,
        **options: Any,
    ) -> list[TextResult]:
        """Continue prompts of any lengths.

        Rows that do not fit into one batch of the engine, or would take room from each other, are generated in several.

        Args:
            prompts: one or several, each a text or its token ids, integers [n].
            max_new_tokens: at least 1.
            sampling: how tokens are chosen; None takes the model's own way, `settings.sampling`.
            seed: the first result of prompt i draws from seed + i, further ones from seeds that follow from it.
            stop: generation of a row ends where its text first contains one of these; None takes the model's own,
                `settings.stop`.
            num_return_sequences: results for each prompt.
            logprobs: note the log probability of each token, and the so many most likely tokens; None notes nothing.
            prefill_chunk: tokens of a prompt that are read at once at most; None derives it from the memory that
                attention takes.
            prompt_lookup_num_tokens: for each run look up so many tokens that followed the last ones before, and read
                them with the next one; rows are generated one after the other then. None looks nothing up.
            cancel: asked before every run of an engine; True ends all rows with what they have.
            **options: fields of `SamplingParams` that are to have another value than `sampling` has.

        Returns:
            For each prompt its results, one after the other.

        Raises:
            InputError: an empty prompt, one longer than the context, or a bad argument.
            EngineError: the engine failed.
        """
        chosen = self.choose(sampling, options)
        count = check_count("num_return_sequences", num_return_sequences)
        chunk = None if prefill_chunk is None else check_count("prefill_chunk", prefill_chunk)
        lookup, base = check_lookup(prompt_lookup_num_tokens, chosen, self.engines), check_seed(seed)
        make = self.row_maker(max_new_tokens=max_new_tokens, stop=stop, logprobs=logprobs)
        encoded = encode_prompts(listed_prompts(prompts), self.tokenizer, self.engines)
        if len(encoded) * count > MAX_RESULTS:
            raise InputError(
                f"{len(encoded):,} prompts with {count:,} results each are requested",
                hint=f"at most {MAX_RESULTS:,} results at once: ask again with another seed",
            )
        rows = [[make(ids, sequence_seed(base, i, n)) for n in range(count)] for i, ids in enumerate(encoded)]
        if chosen.num_beams > 1:
            check_beams(chosen, self.engines, num_return_sequences=count, logprobs=logprobs)
            search = partial(search_beams, engines=self.engines, sampling=chosen, prefill_chunk=chunk, cancel=cancel)
            watches = [partial(self._watch, ids, stop) for ids in encoded]
            return [one for row, watch in zip(rows, watches, strict=True) for one in search(row, watch=watch)]
        flat = [one for row in rows for one in row]
        for batch in fitting_batches(flat, self.engines, apart=lookup > 0):
            for _ in generate_rows(batch, self.engines, chosen, prefill_chunk=chunk, lookup=lookup, cancel=cancel):
                pass
        return [row.result() for row in flat]

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 128,
        sampling: SamplingParams | None = None,
        seed: int = 0,
        stop: Sequence[str] | None = None,
        logprobs: int | None = None,
        prefill_chunk: int | None = None,
        prompt_lookup_num_tokens: int | None = None,
        cancel: Cancel | None = None,
        **options: Any,
    ) -> Generator[str, None, TextResult]:
        """Continue one prompt, piece by piece; the pieces joined are the text that `generate` returns.

        Never yields half a character, nor text that could still turn out to be part of a stop string. Closing the
        generator ends the generation; its return value is the result. Arguments and errors as in `generate`; bad
        arguments raise at once.
        """
        chosen = self.choose(sampling, options, streams=True)
        chunk = None if prefill_chunk is None else check_count("prefill_chunk", prefill_chunk)
        lookup = check_lookup(prompt_lookup_num_tokens, chosen, self.engines)
        make = self.row_maker(max_new_tokens=max_new_tokens, stop=stop, logprobs=logprobs)
        (ids,) = encode_prompts([prompt], self.tokenizer, self.engines)
        row = make(ids, check_seed(seed))
        steps = generate_rows([row], self.engines, chosen, prefill_chunk=chunk, lookup=lookup, cancel=cancel)
        return row.stream(steps)

    def generate_all(self, prompt_tokens: int, new_tokens: int) -> TextResult:
        """Generate as many tokens as are asked for behind as many others, whatever they mean: to be timed."""
        ids = np.full(prompt_tokens, min(65, self.settings.vocab_size - 1), dtype=np.int64)
        (row,), growing = self._endless(ids[None], new_tokens)
        for _ in growing:
            pass
        return row.result()

    def tokens_behind(self, ids_BS: Array, new_tokens: int) -> Iterator[list[int]]:
        """Yield so many of the likeliest tokens behind others, one that ends a text among them: to be timed.

        Args:
            ids_BS: [B, S] int64, at least one for each of B texts.
            new_tokens: at least 1.

        Yields:
            The next token of each text.
        """
        rows, growing = self._endless(ids_BS, new_tokens)
        for _ in growing:
            yield [int(row.history.ids[-1]) for row in rows]

    def _endless(self, ids_BS: Array, new_tokens: int) -> tuple[list[Row], Iterator[None]]:
        endless = replace(self.engines, settings=replace(self.settings, eos_token_ids=()))
        make = self.row_maker(max_new_tokens=new_tokens, stop=(), logprobs=None, ends=False)
        rows = [make(ids, 0) for ids in ids_BS]
        return rows, generate_rows(rows, endless, SamplingParams())

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The chat templates of the model, compiled once.

        Raises:
            InputError: it has none.
            TextSupportMissingError: the package that renders them is not installed.
            BundleError: a template that cannot be read.
        """
        return ChatTemplate.of(require_chat(self.settings), self._chat_files)

    def choose(
        self, sampling: SamplingParams | None, options: dict[str, Any], *, streams: bool = False
    ) -> SamplingParams:
        """How tokens are chosen: as `sampling` says, or else the settings, but for the `options`.

        Args:
            sampling: None takes that of the settings.
            options: fields of it that have another value.
            streams: whether the text is wanted as it comes.

        Raises:
            InputError: an option that there is not, a bad value, a token that the model does not have, or a beam search
                whose text is wanted as it comes.
        """
        if sampling is not None and not isinstance(sampling, SamplingParams):
            raise InputError(f"sampling is {shown(sampling)}", hint="must be SamplingParams")
        chosen = (self.settings.sampling if sampling is None else sampling).override(**options)
        chosen.check_vocabulary(self.settings.vocab_size)
        if streams and chosen.num_beams > 1:
            raise InputError(
                f"num_beams is {chosen.num_beams}",
                hint="the text of a beam search is known at its end: use generate, or num_beams=1",
            )
        return chosen

    def row_maker(
        self, *, max_new_tokens: int, stop: Sequence[str] | None, logprobs: int | None, ends: bool = True
    ) -> Callable[[Array, int], Row]:
        """Check what rows are asked for; returns what makes a row of a prompt's ids and a seed.

        Args:
            max_new_tokens: see `generate`, also for the next two.
            stop: strings; None for the model's own.
            logprobs: how many.
            ends: whether the tokens that end a text do so.

        Raises:
            InputError: a bad argument.
        """
        if stop is not None:
            check_stop(stop)
        if stop and self.settings.tokenizer.kind == "none":
            raise InputError("this model has no tokenizer: a text cannot end it", hint="leave the stop strings out")
        most, noted = check_count("max_new_tokens", max_new_tokens), as_integer(logprobs)
        if logprobs is not None and (noted is None or not 0 <= noted <= self.settings.vocab_size):
            raise InputError(
                f"logprobs is {shown(logprobs)}", hint=f"must be an integer from 0 to {self.settings.vocab_size:,}"
            )
        started = time.perf_counter()

        def make(ids: Array, seed: int) -> Row:
            return Row(
                ids,
                generator=TorchGenerator(seed),
                text=self._watch(ids, stop),
                context_length=self.engines.context_length,
                max_new_tokens=most,
                eos_token_ids=self.settings.eos_token_ids if ends else (),
                logprobs=noted,
                started=started,
            )

        return make

    def _watch(self, ids: Array, stop: Sequence[str] | None) -> StopWatch:
        return StopWatch(self.tokenizer.stream(ids), self.settings.stop if stop is None else stop)
