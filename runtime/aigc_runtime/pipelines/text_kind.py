"""The kind `text`: what a request of a bundle may ask for, how two texts are compared, and what is timed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from aigc_runtime.core.compare import token_agreement
from aigc_runtime.core.ranges import MAX_COUNT
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError
from aigc_runtime.generation.chat import ChatTemplate
from aigc_runtime.generation.logits import SamplingParams
from aigc_runtime.generation.rng import check_seed
from aigc_runtime.pipelines.kind import Metric, PipelineKind, Request, ResultForm, Results, Verb
from aigc_runtime.pipelines.prompts import check_prompts, is_single
from aigc_runtime.pipelines.requests import check_arguments, integer_check, texts_check
from aigc_runtime.pipelines.settings import TextSettings
from aigc_runtime.pipelines.text import TextPipeline
from aigc_runtime.pipelines.text_readers import TextReaders
from aigc_runtime.pipelines.text_reading import Reading
from aigc_runtime.pipelines.text_tensors import INPUT_IDS
from aigc_runtime.pipelines.text_tokenizer import text_tokenizer

__all__ = ["MAX_REFERENCE_TOKENS", "TEXT", "TOKENS", "request_sampling"]

TOKENS = "tokens"
"""The result of a request."""

MAX_REFERENCE_TOKENS = 2**16
"""Tokens that the reference may ask for, all rows together."""

PROMPT_TOKENS = 64
DECODE_TOKENS = 64
SPEED_PROMPT_TOKENS = 256


def request_sampling(value: object) -> SamplingParams:
    """The sampling of a request, from an object with some of its fields.

    Raises:
        ConfigError: no object, or a field that sampling has not.
        InputError: a value that it does not take.
    """
    known = list(SamplingParams.__dataclass_fields__)
    if not isinstance(value, Mapping) or not value.keys() <= set(known):
        raise ConfigError(f"request.sampling is {value!r:.200}", hint=f"must be an object with some of {known}")
    return SamplingParams(**value)


_CHECKS: Mapping[str, Callable[[Any], object]] = {
    "prompts": check_prompts,
    "stop": texts_check("stop"),
    "max_new_tokens": integer_check("max_new_tokens", MAX_COUNT),
    "sampling": request_sampling,
    "seed": check_seed,
    "num_return_sequences": integer_check("num_return_sequences", MAX_COUNT),
    "logprobs": integer_check("logprobs", MAX_COUNT),
    "prefill_chunk": integer_check("prefill_chunk", MAX_COUNT),
}


def _check(pipeline: TextPipeline) -> None:
    settings = pipeline.settings
    for engine in dict.fromkeys((pipeline.prefill, pipeline.decode)):
        interface = pipeline.program.session(engine).interface
        ids = interface.input(INPUT_IDS)
        high = None if ids is None else ids.high
        if isinstance(high, str) or (high is not None and high > settings.vocab_size):
            raise ConfigError(
                f"input {INPUT_IDS!r} takes ids below {high}, vocab_size is {settings.vocab_size:,}",
                hint="an engine must not take ids beyond its vocabulary",
            )
        if not interface.state:
            raise ConfigError(
                "the engine carries no state", hint="a text pipeline needs one: each step feeds new tokens"
            )
        # What a tensor has by its own size; the range of a dimension is another thing.
        rooms = [spec.room(0, {}) for spec in interface.state]
        capacity = min((room for room in rooms if room is not None), default=None)
        if capacity is not None and capacity < settings.context_length:
            raise ConfigError(
                f"context_length is {settings.context_length:,}, the carried state holds {capacity:,} steps",
                hint="a context must fit into the state",
            )


def _assets(settings: TextSettings) -> list[str]:
    files = [settings.tokenizer.file] if settings.tokenizer.file is not None else []
    return [*files, *(settings.chat.templates.values() if settings.chat is not None else ())]


def _check_request(pipeline: TextPipeline, request: Request, arrays: Collection[str]) -> dict[str, ResultForm]:
    check_arguments(TextPipeline.generate, request, arrays, checks=_CHECKS)
    prompts = request["prompts"]
    rows = 1 if is_single(prompts) else len(prompts)
    if not rows:
        raise ConfigError("request.prompts is empty", hint="must be a list of texts, or of lists of token ids")
    rows *= request.get("num_return_sequences", 1)
    most = min(request.get("max_new_tokens", 128), pipeline.settings.context_length)
    if rows * most > MAX_REFERENCE_TOKENS:
        raise ConfigError(
            f"the reference's request asks for {rows * most:,} tokens", hint=f"at most {MAX_REFERENCE_TOKENS:,}"
        )
    # A token and the end of its row at least.
    form = ResultForm(
        what=f"{rows} rows of text",
        dtype="int64",
        shape=(None,),
        min_bytes=rows * 2 * 8,
        max_bytes=MAX_REFERENCE_TOKENS * 2 * 8,
    )
    return {TOKENS: form}


def _replay(pipeline: TextPipeline, request: Request) -> dict[str, Array]:
    arguments = dict(request)
    if arguments.get("sampling") is not None:
        arguments["sampling"] = request_sampling(arguments["sampling"])
    rows = pipeline.generate(**arguments)
    return {TOKENS: np.concatenate([np.append(row.token_ids, -1) for row in rows])}


def _agreement(reference: Results, actual: Results) -> float:
    return token_agreement(reference[TOKENS], actual[TOKENS])


def _step(pipeline: TextPipeline) -> Callable[[], object]:
    """A decoded token with 64 before it."""
    engines = pipeline.engines
    rows = engines.batch_of(1)  # an engine of one batch size takes no other
    any_id = min(65, pipeline.settings.vocab_size - 1)
    prompt = np.full((rows, max(1, min(PROMPT_TOKENS, engines.max_steps // 2))), any_id, dtype=np.int64)
    token, pad = np.full((rows, 1), any_id, dtype=np.int64), np.zeros(rows, dtype=np.int64)
    reading = Reading(engines, pad)

    def step() -> object:
        nonlocal reading
        if reading.length + 1 > engines.max_steps:
            reading = Reading(engines, pad)
            reading.feed(prompt)
        return reading.feed(token)

    reading.feed(prompt)
    return step


def _units(pipeline: TextPipeline) -> tuple[str, int]:
    return "token", min(DECODE_TOKENS, pipeline.engines.context_length - 1)


def _generate_once(pipeline: TextPipeline) -> object:
    return pipeline.generate_all(1, _units(pipeline)[1])


def _speeds(pipeline: TextPipeline, runs: int) -> dict[str, float]:
    """How fast a prompt is read, and the tokens after it are generated: medians."""
    context = pipeline.engines.context_length
    prompt, decoded = max(1, min(SPEED_PROMPT_TOKENS, context // 2)), min(DECODE_TOKENS, max(1, context // 4))
    results = [pipeline.generate_all(prompt, decoded) for _ in range(runs + 1)][1:]
    first = [result.time_to_first_token_s for result in results if result.time_to_first_token_s is not None]
    speeds = [result.tokens_per_second for result in results if result.tokens_per_second is not None]
    found: dict[str, float] = {"prompt_tokens": prompt, "prefill_ms": 1e3 * statistics.median(first)}
    return found if not speeds else {**found, "decode_tokens_per_second": statistics.median(speeds)}


def _text_readers(settings: TextSettings, assets: Mapping[str, bytes]) -> TextReaders:
    return TextReaders(
        tokenizer=text_tokenizer(settings, assets),
        of_file=settings.tokenizer.file is not None,
        template=None if settings.chat is None else ChatTemplate.of(settings.chat, assets),
    )


def _verb() -> Verb:
    from aigc_runtime.pipelines.text_verb import TEXT_VERB

    return TEXT_VERB


def _chat() -> Verb:
    from aigc_runtime.pipelines.chat_verb import CHAT_VERB

    return CHAT_VERB


TEXT = PipelineKind(
    name="text",
    settings=TextSettings,
    open=lambda program, roles, settings: TextPipeline(program, settings, roles),
    check=_check,
    check_request=_check_request,
    assets=_assets,
    needs_text_vectors=lambda settings: settings.tokenizer.file is not None or settings.chat is not None,
    text_readers=_text_readers,
    read_ahead=lambda settings, assets: settings.tokenizer.file and text_tokenizer(settings, assets),
    replay=_replay,
    metric=Metric(name="token_agreement", measure=_agreement, limit="min_token_agreement"),
    step=_step,
    units=_units,
    generate_once=_generate_once,
    verb=_verb,
    chat=_chat,
    speeds=_speeds,
)
"""Continues prompts with a language model."""
