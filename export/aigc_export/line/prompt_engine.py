"""Give a language model an engine of its own for prompts, where that reads them faster on this machine.

Both engines multiply by the same codes, which are in the bundle once. That for prompts rounds each token's numbers with
one scale and multiplies whole rows (`row_products`), which wants many tokens at a time; that for tokens rounds them in
blocks. Which is faster for a prompt belongs to the processor, so both read one here.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aigc_calibration.config import BLOCKS
from aigc_calibration.onnx_file import SharedWeights
from aigc_calibration.quantize import Quantized
from aigc_calibration.search.median import median_and_error
from aigc_export.line.attempt import WEIGHTS_FILE, Attempt, Proof
from aigc_export.line.quantization import quantize_parts
from aigc_export.line.speed import time_in_turn
from aigc_export.parity.reference import Case, Step
from aigc_export.prepare.prepare import PreparedModel, Reporter
from aigc_export.prepare.request import build_engine
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.workloads.samples.text import engine_of_step
from aigc_models.program import Program
from aigc_models.separate_prefill import can_separate_prefill, with_separate_prefill
from aigc_runtime.backends.ort.backend import ORT
from aigc_runtime.backends.ort.providers import OrtBuild
from aigc_runtime.core.progress import Progress
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.text_tensors import DECODE, INPUT_IDS, LOGITS_TO_KEEP, PAD_LENGTH, PREFILL
from aigc_runtime.system.processor import instruction_set, processor_name
from aigc_runtime.system.temporary_folder import temporary_folder

__all__ = ["Engines", "choose_prompt_engine", "first_attempt", "with_whole_rows"]

PROMPT_TOKENS = 128
"""Of the prompt that both engines read."""
LEAST_GAIN, LEAST_SAVED_MS = 1.1, 5.0
"""Times as fast, and milliseconds of such a prompt: for less a second engine is not worth its memory."""


@dataclass(frozen=True, kw_only=True)
class Engines:
    """What the engines of a bundle are made of.

    Attributes:
        program: the model, of one part or of two.
        prepared: its parts.
        quantized: part -> what it is built from, of those that are quantized.
        cases: PyTorch's arrays, each step by the name of its engine.
        otherwise: makes those of one engine, where two were chosen for their speed; None where nothing else was meant.
    """

    program: Program
    prepared: tuple[PreparedModel, ...]
    quantized: Mapping[str, Quantized]
    cases: tuple[Case, ...]
    otherwise: Callable[[], Engines] | None = None


def with_whole_rows(prepared: Sequence[PreparedModel], recipe: ExportRecipe) -> tuple[PreparedModel, ...]:
    """Let weights have one scale for all that is summed, where an engine for prompts may multiply whole rows."""
    if not _may_multiply_rows(prepared, recipe):
        return tuple(prepared)
    return tuple(_asking(one, whole_rows=True) for one in prepared)


def choose_prompt_engine(
    engines: Engines, recipe: ExportRecipe, reporter: Reporter, progress: Progress | None
) -> Engines:
    """Make two engines of one where the one for prompts is worth it on this machine.

    Args:
        engines: of which the weights were quantized as `with_whole_rows` asked.
        recipe: of the export.
        reporter: told what was measured.
        progress: called while weights are quantized anew, where one engine stays.

    Raises:
        AigcError: an engine cannot be built or run.
    """
    prepared, program = engines.prepared, engines.program
    if not any(one.quantization is not None and one.quantization.whole_rows for one in prepared):
        return engines
    if not can_separate_prefill(program):  # two were asked for
        return engines
    low = _only(engines.quantized)
    if not any(op.block is not None and op.block not in BLOCKS for op in low.plan.quantized()):
        return engines

    def alone() -> Engines:
        plain = tuple(_asking(one, whole_rows=False) for one in prepared)
        return replace(engines, prepared=plain, quantized=quantize_parts(plain, recipe, reporter, progress))

    parted = _parted(engines)
    rounds = _timed(parted, recipe)
    gain, _ = median_and_error([tokens / prompts for tokens, prompts in rounds])
    slow, fast = (statistics.median(side) for side in zip(*rounds, strict=True))
    is_worth_it = gain >= LEAST_GAIN and slow - fast >= LEAST_SAVED_MS
    reporter.report(
        "prompts",
        f"{_prompt_tokens(program)} tokens are read in {fast:.3g} ms by an engine of their own, in {slow:.3g} ms by "
        f"that for tokens ({gain:.2f}x; {len(rounds)} rounds in turn; {processor_name()}, "
        f"{instruction_set() or 'instructions not known'}): {'two engines' if is_worth_it else 'one engine'}",
    )
    return replace(parted, otherwise=alone) if is_worth_it else alone()


def first_attempt(
    engines: Engines, proof_of: Callable[[Engines], Proof], folder: Path
) -> tuple[Engines, Proof, Attempt]:
    """Build and judge engines; where two were chosen for their speed and miss a limit, one in their place.

    Args:
        engines: what they are made of.
        proof_of: makes what they are judged by.
        folder: where their files go; it is made.

    Returns:
        What was built at last, its proof, and the attempt, open.

    Raises:
        AigcError: an engine cannot be built or run.
    """
    proof = proof_of(engines)
    attempt = proof.attempt(engines.quantized, folder)
    if attempt.report.passed or engines.otherwise is None:
        return engines, proof, attempt
    proof.reporter.report("prompts", f"two engines miss a limit, so that there is one: {attempt.report.failures[0]}")
    attempt.discard()
    engines = engines.otherwise()
    proof = proof_of(engines)
    return engines, proof, proof.attempt(engines.quantized, folder)


def _may_multiply_rows(prepared: Sequence[PreparedModel], recipe: ExportRecipe) -> bool:
    program = prepared[0].program
    is_open = can_separate_prefill(program) and program.options.get("separate_prefill") is not False
    if not recipe.target.multiplies_rows or recipe.search is not None:
        return False
    if not (PREFILL in program.engines or (is_open and _prompt_tokens(program) > 1)):
        return False
    if any(one.quantization is None or not _chooses_blocks(one, recipe) for one in prepared):
        return False
    return ORT.computes_here(OrtBuild(byte_products=True))


def _chooses_blocks(prepared: PreparedModel, recipe: ExportRecipe) -> bool:
    assert prepared.quantization is not None
    return prepared.quantization.chooses_blocks(recipe.of_part(prepared.part.name).site_precision)


def _asking(prepared: PreparedModel, *, whole_rows: bool) -> PreparedModel:
    assert prepared.quantization is not None
    return replace(prepared, quantization=replace(prepared.quantization, whole_rows=whole_rows))


def _only(quantized: Mapping[str, Quantized]) -> Quantized:
    (found,) = quantized.values()
    return found


def _prompt_tokens(program: Program) -> int:
    return int(min(PROMPT_TOKENS, program.settings.context_length // 2))


def _parted(engines: Engines) -> Engines:
    """The same as two engines, of which each step of a case gets its own."""
    program, (one,), low = with_separate_prefill(engines.program), engines.prepared, _only(engines.quantized)
    return Engines(
        program=program,
        prepared=tuple(replace(one, program=program, part=part) for part in program.parts.values()),
        quantized=dict.fromkeys(program.parts, low),
        cases=tuple(replace(case, steps=tuple(_named(case.steps, program))) for case in engines.cases),
    )


def _named(steps: Sequence[Step], program: Program) -> Iterator[Step]:
    """The same steps by the names of the engines that read them."""
    for index, step in enumerate(steps):
        yield replace(step, engine=engine_of_step(program.engines, index))


def _timed(engines: Engines, recipe: ExportRecipe) -> list[tuple[float, float]]:
    """Read a prompt with both engines in turn: milliseconds of that for tokens, and of that for prompts."""
    feeds, calls = _prompt(engines.program), dict[str, Callable[[], object]]()
    with temporary_folder("prompts") as folder, contextlib.ExitStack() as stack:
        shared = SharedWeights(folder / WEIGHTS_FILE)
        for one in engines.prepared:
            low = engines.quantized[one.part.name]
            built = build_engine(one, low.graph, low.plan, recipe, folder, shared=shared)
            stack.callback(built.candidate.close)
            calls[one.part.name] = _reading(built.candidate, feeds)
        return time_in_turn(calls[DECODE], calls[PREFILL])


def _prompt(program: Program) -> dict[str, Array]:
    count = _prompt_tokens(program)
    ids = np.random.default_rng(0).integers(0, program.settings.vocab_size, size=(1, count))
    return {
        INPUT_IDS: ids.astype(np.int64),
        PAD_LENGTH: np.zeros(1, dtype=np.int64),
        LOGITS_TO_KEEP: np.array([count - 1], dtype=np.int64),
    }


def _reading(session: Session, feeds: Mapping[str, Array]) -> Callable[[], object]:
    return lambda: session.run(feeds, session.new_state(1))
