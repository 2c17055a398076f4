"""The workload of language models: text in, text out, over a carried cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from aigc_calibration.data import ArrayData, CalibrationData, NpzRows
from aigc_calibration.subject import ArrayRules, Subject
from aigc_export.workloads.base import (
    DEFAULT_SAMPLES,
    INTEGERS,
    WEIGHTS_ALONE,
    CasePlan,
    EvaluationFacts,
    Range,
    SampleRequest,
    Workload,
    single_profile,
)
from aigc_export.workloads.evaluators.text import TEXT_MEASURES, text_evaluator
from aigc_export.workloads.limits import make_tolerances
from aigc_export.workloads.samples.chats import chat_render
from aigc_export.workloads.samples.text import (
    SEQUENCE,
    TextData,
    calibrated_places,
    calibration_documents,
    engine_of_step,
    engines_of,
)
from aigc_export.workloads.sizes import BATCH, fitting, fitting_batches
from aigc_models.evaluation.evaluation import NO_TOKENIZER, Evaluation, public_documents, text_evaluation
from aigc_models.evaluation.quality import WINDOW
from aigc_models.evaluation.windows import draw_texts, draw_tokens
from aigc_models.families.lm_shapes import INT8_IN_BLOCKS
from aigc_models.program import Part, Program
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.shape_profiles import ShapeProfile
from aigc_runtime.core.tensors import Array, DimSpec
from aigc_runtime.generation.logits import SamplingParams
from aigc_runtime.generation.tokenizers import Tokenizer
from aigc_runtime.pipelines.settings import TextSettings
from aigc_runtime.pipelines.text import INPUT_IDS, KEPT, LOGITS_TO_KEEP, PAD_LENGTH
from aigc_runtime.pipelines.text_tokenizer import text_tokenizer

__all__ = ["TEXT"]

PAST = "past"
DECODED = 3
"""Tokens that a case decodes one by one."""
PROMPT_TOKENS = 48
NEW_TOKENS = 48
REQUEST_TOKENS, REQUEST_CHARACTERS = 16, 64
"""Of the longer of the two prompts that a bundle generates from, at most."""
CASE_WINDOWS = 8
"""Stretches of the text that the cases are drawn from."""
CALIBRATION_WINDOW = 512
"""Tokens of a sample, at most."""
EVALUATION_COST, MIN_SAMPLES = 2**39, 16
"""Parameters times tokens that a model is evaluated on by default; and the least number of windows."""
BEST_LENGTH = 128
"""Tokens of a prompt that an engine is optimized for."""
LARGEST_KEPT = 64
"""Places whose logits a compiled engine can compute in a run: it holds memory for all of them."""
CASE_LOGITS = 2**18
"""Logits of a row that a case holds at most."""
SHOWN_PROMPT, SHOWN_TOKENS = "def read_lines(path", 200


def _cases(program: Program, opened: OpenProgram, rng: np.random.Generator) -> Iterator[CasePlan]:
    """Plan a prompt alone and a left-padded pair, each with tokens decoded one by one after it.

    Of the prompt alone the logits of every place are compared, or of as many as are no more than `CASE_LOGITS`; of the
    pair those of the last place, as a pipeline asks for them.

    The tokens are those of a real text: on noise a language model computes what nobody will ask of it, and an engine
    of lower precision would be compared with that. They stand in the bundle: it is public text, never the maker's.
    """
    settings: TextSettings = program.settings
    session = opened.session(engine_of_step(program.engines, 0))
    decoded = min(DECODED, settings.context_length // 2)
    longest = fitting(session, SEQUENCE, min(PROMPT_TOKENS, settings.context_length // 2))
    longest = max(1, min(longest, fitting(session, PAST, longest + decoded) - decoded))
    text = _tokens(program, length=longest + decoded, seed=int(rng.spawn(1)[0].integers(2**31)))
    for name, rows in zip(("single", "ragged"), fitting_batches(session, 1, 2), strict=False):
        pad = [0] * rows
        if name == "ragged":
            pad[-1] = -(-longest // 3) if 1 < longest < 3 else longest // 3
        starts = rng.integers(0, len(text) - longest - decoded, size=len(pad))
        ids = np.stack([text[s : s + longest + decoded] for s in starts]).astype(np.int64)
        pad_length = np.array(pad, dtype=np.int64)
        most = max(1, min(longest, CASE_LOGITS // settings.vocab_size))
        kept = fitting(session, KEPT, most if name == "single" else 1)
        keep = [_spread(longest, kept), *[np.zeros(1, dtype=np.int64)] * decoded]
        pieces = [ids[:, :longest], *(ids[:, i : i + 1] for i in range(longest, longest + decoded))]
        steps = [
            {INPUT_IDS: piece, PAD_LENGTH: pad_length, LOGITS_TO_KEEP: places}
            for piece, places in zip(pieces, keep, strict=True)
        ]
        yield CasePlan(
            name=name, steps=tuple((engine_of_step(program.engines, i), feeds) for i, feeds in enumerate(steps))
        )


def _tokens(program: Program, *, length: int, seed: int) -> Array:
    """Draw tokens of public text, or, where the model reads none, of its vocabulary: more than `length`."""
    settings: TextSettings = program.settings
    tokenizer = text_tokenizer(settings, program.assets)
    return draw_tokens(public_documents(settings), tokenizer, count=CASE_WINDOWS, length=length, seed=seed)


def _spread(length: int, count: int) -> Array:
    """Choose `count` of `length` places, evenly, the last among them: [count] int64."""
    return length - 1 - np.arange(count, dtype=np.int64)[::-1] * length // count


def _request(program: Program, opened: OpenProgram, seed: int) -> dict[str, Any]:
    fitting_prompts = _prompts(program, seed)
    rows = fitting(opened.session(engines_of(program.engines)[0]), BATCH, 2)
    prompts = [fitting_prompts[i % len(fitting_prompts)] for i in range(rows)]
    # The more tokens are compared, the better: no text of the model's own ends the reference.
    endless: dict[str, Any] = {"stop": []} if program.settings.stop else {}
    return {"prompts": prompts, "max_new_tokens": NEW_TOKENS, "sampling": {"temperature": 0.0}, "seed": seed, **endless}


def _prompts(program: Program, seed: int) -> list[str] | list[list[int]]:
    """Cut two prompts of different lengths from public text, with room for half a context behind."""
    settings: TextSettings = program.settings
    tokenizer, most = text_tokenizer(settings, program.assets), max(1, settings.context_length // 2)
    longest = min(REQUEST_TOKENS, most)
    lengths = longest, max(1, longest // 2)
    if settings.tokenizer.kind == NO_TOKENIZER:
        text = _tokens(program, length=sum(lengths), seed=seed)
        return [text[: lengths[0]].tolist(), text[lengths[0] : sum(lengths)].tolist()]
    texts = draw_texts(public_documents(settings), count=len(lengths), size=REQUEST_CHARACTERS, seed=seed)
    return [_fitting(tokenizer, text, length) for text, length in zip(texts, lengths, strict=True)]


def _fitting(tokenizer: Tokenizer, text: str, most: int) -> str:
    """Cut the end of a text off until it has at most so many tokens, or one character is left."""
    lengths = range(len(text), 0, -1)
    return text[: next((n for n in lengths if len(tokenizer.encode(text[:n])) <= most), 1)]


def _subject(interface: Interface, _settings: TextSettings) -> Subject:
    rules = ArrayRules(
        words={PAD_LENGTH: f"0 to {SEQUENCE} - 1"},
        varied=frozenset({INPUT_IDS}),
        find_fault=_padding_fault,
        derived={LOGITS_TO_KEEP: lambda arrays: calibrated_places(arrays[INPUT_IDS])},
    )
    return Subject(interface=interface, rules=rules)


def _padding_fault(arrays: Mapping[str, Array]) -> str:
    if PAD_LENGTH not in arrays or INPUT_IDS not in arrays:
        return ""
    length, most = arrays[INPUT_IDS].shape[1], int(arrays[PAD_LENGTH].max())
    fault = f"calibration array {PAD_LENGTH!r} reaches {most}, and a row of {INPUT_IDS!r} has {length}"
    return fault if most >= length else ""


def _calibration(program: Program, part: Part, request: SampleRequest) -> CalibrationData:
    settings: TextSettings = program.settings
    if (rows := NpzRows.of(request.path)) is not None:
        subject = _subject(part.interface, settings)
        return ArrayData(subject=subject, source=rows, most=request.samples, seed=request.seed)
    documents = calibration_documents(
        request.path,
        settings,
        own_text=request.own_text,
        held_out=request.held_out,
        render=chat_render(settings, program.assets),
    )
    tokenizer = text_tokenizer(settings, program.assets)
    return TextData(
        interface=part.interface,
        settings=settings,
        tokens=draw_tokens(documents, tokenizer, count=request.samples, length=CALIBRATION_WINDOW, seed=request.seed),
        samples=request.samples,
        length=CALIBRATION_WINDOW,
        seed=request.seed,
    )


def _evaluation(settings: TextSettings, facts: EvaluationFacts) -> Evaluation:
    render = chat_render(settings, facts.assets)
    return text_evaluation(settings, kept=facts.kept, held_out=facts.held_out, eval_data=facts.eval_data, render=render)


def _default_samples(parameters: int) -> int:
    """Choose so many windows that a large model gets through them in half a minute or so, on two processors."""
    affordable = EVALUATION_COST // (max(parameters, 1) * WINDOW)
    return min(DEFAULT_SAMPLES, max(MIN_SAMPLES, affordable))


def _best_size(dim: DimSpec, _part: Part, settings: TextSettings) -> int:
    top = dim.max if dim.max is not None else settings.context_length
    return 1 if dim.name == KEPT else min(BEST_LENGTH, top // 2)


def _largest_size(dim: DimSpec, _part: Part, settings: TextSettings) -> int:
    return min(LARGEST_KEPT, settings.context_length) if dim.name == KEPT else settings.context_length


def _profiles(part: Part, ranges: Mapping[str, Range]) -> tuple[ShapeProfile, ...]:
    """Make two: `prefill` is best at a prompt with nothing held; `decode` takes one new token, and keeps its logits."""
    step = part.interface.step_dim
    if step is None:
        return single_profile(part, ranges)
    held = {PAST: _held(ranges[PAST], best=0)} if PAST in ranges else {}
    one = {name: (1, 1, 1) for name in (step, KEPT) if name in ranges}
    half = {PAST: _held(ranges[PAST], best=ranges[PAST][2] // 2)} if PAST in ranges else {}
    return (
        ShapeProfile(name="prefill", dims={**ranges, **held}),
        ShapeProfile(name="decode", dims={**ranges, **half, **one}),
    )


def _held(found: Range, *, best: int) -> Range:
    return found[0], max(found[0], best), found[2]


def _showcase(pipeline: Any) -> tuple[str, bytes]:
    sampling = SamplingParams(temperature=0.7, top_p=0.9)
    (result,) = pipeline.generate(SHOWN_PROMPT, max_new_tokens=SHOWN_TOKENS, sampling=sampling, seed=1)
    return ".txt", (SHOWN_PROMPT + result.text).encode("utf-8")


TEXT = Workload(
    kind="text",
    cases=_cases,
    request=_request,
    subject=_subject,
    calibration=_calibration,
    evaluation=_evaluation,
    evaluator=text_evaluator,
    tolerances={
        "fp32": make_tolerances(None, agreement=1.0, drop=0.001),
        "fp16": make_tolerances(45.0, agreement=0.25, drop=0.005),
        "bf16": make_tolerances(30.0, agreement=0.25, drop=0.01),
        "int8": make_tolerances(24.0, agreement=0.25, drop=0.03),
        "fp8": make_tolerances(20.0, agreement=0.25, drop=0.10),
        "int8-weight": make_tolerances(30.0, agreement=0.25, drop=0.01),
        "int4": make_tolerances(18.0, agreement=0.1, drop=0.20),
    },
    measures=TEXT_MEASURES,
    budget="ppl<=+0.1%",
    quality_decides=True,
    default_samples=_default_samples,
    shapes_needed="a language model needs a profile for prompts beside one for single tokens",
    showcase=_showcase,
    calibration_samples=lambda _program: 128,  # of 512 tokens
    half_samples=32,
    int8_in_blocks=INT8_IN_BLOCKS,
    nearest=("int8-weight",),  # GPTQ changes perplexity by less than its error: docs/quantization.md
    gain_smoothing=0.8,  # docs/adr/0057-engine-for-prompts.md
    block=None,
    float_share=0.3,  # the last products of its gated layers are a fifth of SmolLM2: docs/adr/0053-rotated-streams.md
    precision_pairs=(INTEGERS, WEIGHTS_ALONE),
    probe_batches=4,  # two prompts, each with the token behind it
    foreign_limits=("min_psnr_db",),
    best_size=_best_size,
    largest_size=_largest_size,
    profiles=_profiles,
)
