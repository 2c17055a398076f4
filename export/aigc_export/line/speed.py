"""Time a quantized export beside the float graph, in the same run, and refuse what was to be faster and is slower.

Steps of both alternate, so that other work on the machine disturbs both alike; a loss of time counts beyond its own
noise alone, and only if a second measurement says the same.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from aigc_calibration.quantize import Quantized
from aigc_calibration.search.median import median_and_error
from aigc_export.errors import SlowerError
from aigc_export.line.attempt import Attempt, Proof
from aigc_export.prepare.prepare import PreparedModel
from aigc_export.prepare.request import build_engine
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.pipelines import kind_of, make_pipeline
from aigc_runtime.system.host_memory import available_memory
from aigc_runtime.system.interrupts import check_interrupted
from aigc_runtime.system.processor import BYTE_PRODUCTS, instruction_set, processor_name

__all__ = ["Speed", "check_speed", "time_in_turn"]

ROUND_MS, MOST_RUNS = 10.0, 20
"""A round runs each side for so long, and no more than so many steps."""
SECONDS, LEAST_ROUNDS, MOST_ROUNDS = 2.0, 5, 15
"""What all rounds take, about, within these numbers of rounds."""
NO_LOSS = 1.05
"""Times fp32's: a loss of less is none that anybody would give a bundle back for."""
SIGMAS = 3.0
"""Standard errors by which a loss must be beyond that."""
LEAST_MS = 1.0
"""Of a step in fp32: of a shorter one what calls the engine is a good part, whatever the engine."""
COPIES = 2
"""Of the float weights, that must have room in memory: the engine's and what loads it."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A quantized export beside fp32, on the machine of the export.

    Attributes:
        ms: milliseconds of one step at batch 1, as the kind of pipeline has it: the median of the rounds, of each of
            which the least counts, since other work on the machine only adds to it.
        fp32_ms: the same of the float graphs.
        ratio: time over fp32's; the median of the rounds.
        ratio_error: standard error of that.
        rounds: how often both were timed.
        processor: what it is called, and the instructions that 8-bit products are made of.
    """

    ms: float
    fp32_ms: float
    ratio: float
    ratio_error: float
    rounds: int
    processor: str

    @property
    def is_slower(self) -> bool:
        """Whether it takes longer than fp32, beyond the noise of this measurement."""
        return self.fp32_ms >= LEAST_MS and self.ratio - SIGMAS * self.ratio_error > NO_LOSS

    def __str__(self) -> str:
        return f"{1 / self.ratio:.2f}x as fast as fp32: {self.measured}"

    @property
    def measured(self) -> str:
        """The times, and where they were measured."""
        times = f"{self.ms:.3g} ms a step, fp32 {self.fp32_ms:.3g} ms"
        return f"{times} ({self.rounds} rounds in turn; {self.processor})"


def check_speed(attempt: Attempt, proof: Proof, folder: Path) -> Speed | None:
    """Time the engines of an export beside those of its float graphs, report it, and refuse a loss.

    Args:
        attempt: the engines, open.
        proof: of the export.
        folder: where the float engines' files go; it is made, and removed.

    Returns:
        None where nothing is quantized, where an engine does not run here, and where there is no room for the float
        ones.

    Raises:
        SlowerError: the engines multiply in 8 bits on a processor with instructions for that, are slower than fp32 all
            the same, and the recipe does not allow it.
        AigcError: an engine cannot be built or run.
    """
    low = attempt.quantized
    if not low or any(attempt.built[name].engine.proof.parity != "engine" for name in low):
        return None
    reporter, recipe = proof.reporter, proof.recipe
    weights = sum(_weights_bytes(one) for one in proof.prepared if one.part.name in low)
    if not _has_room(folder.parent, weights):
        reporter.report(
            "speed", f"not timed: there is no room for the float engines, {weights / 1e6:.0f} MB of weights"
        )
        return None
    with _float_program(attempt, proof, folder) as exact:
        speed = _timed(exact, attempt.candidate, proof)
        if speed.is_slower:  # what disturbed one measurement does not disturb the next in the same way
            speed = min(speed, _timed(exact, attempt.candidate, proof), key=lambda found: found.ratio)
    reporter.report("speed", str(speed))
    if not speed.is_slower or recipe.allow_slower:
        return speed
    here = instruction_set()
    loss = f"{recipe.stored_precision} takes {speed.ratio:.2f} times as long as fp32 here"
    if not all(_multiplies_bytes(one) for one in low.values()):
        reporter.warn(f"{loss}, and saves size alone: {speed.measured}")
    elif here not in BYTE_PRODUCTS:
        reporter.warn(f"{loss}, without instructions for products of 8-bit numbers: {speed.measured}")
    else:
        raise SlowerError(
            f"{recipe.name} for {recipe.target.name}: {loss}: {speed.measured}",
            hint="export it in fp32, or accept that with --allow-slower (in Python: allow_slower=True); nothing was "
            "published",
        )
    return speed


def time_in_turn(first: Callable[[], object], second: Callable[[], object]) -> list[tuple[float, float]]:
    """Time two functions in turn: A B B A A B; milliseconds of a call of each, the least of every round.

    Args:
        first: called as often as the second.
        second: likewise.
    """
    slow = max(_milliseconds(first, 1), _milliseconds(second, 1))  # which warms both up, too
    slow = max(_milliseconds(first, 1), _milliseconds(second, 1), 1e-3)
    runs = max(1, min(MOST_RUNS, round(ROUND_MS / slow)))
    rounds = max(LEAST_ROUNDS, min(MOST_ROUNDS, int(SECONDS * 1e3 / (2 * runs * slow))))
    found = []
    for number in range(rounds):
        check_interrupted()
        both = (first, second) if number % 2 == 0 else (second, first)
        times = [_milliseconds(call, runs) for call in both]
        found.append((times[0], times[1]) if number % 2 == 0 else (times[1], times[0]))
    return found


def _milliseconds(call: Callable[[], object], runs: int) -> float:
    """Time a call: the least of so many."""
    found = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        found.append((time.perf_counter() - started) * 1e3)
    return min(found)


def _timed(exact: OpenProgram, candidate: OpenProgram, proof: Proof) -> Speed:
    settings, roles = proof.program.settings, proof.program.engines
    steps = [kind_of(settings).step(make_pipeline(one, settings, roles)) for one in (exact, candidate)]
    rounds = time_in_turn(steps[0], steps[1])
    ratio, error = median_and_error([low / high for high, low in rounds])
    return Speed(
        ms=statistics.median(low for _, low in rounds),
        fp32_ms=statistics.median(high for high, _ in rounds),
        ratio=ratio,
        ratio_error=error,
        rounds=len(rounds),
        processor=f"{processor_name()}, {instruction_set() or 'instructions not known'}",
    )


@contextlib.contextmanager
def _float_program(attempt: Attempt, proof: Proof, folder: Path) -> Iterator[OpenProgram]:
    """Open the program with float engines in place of quantized ones; the others are those of the attempt."""
    folder.mkdir()
    built = {}
    try:
        for one in proof.prepared:
            if (name := one.part.name) in attempt.quantized:
                recipe = replace(proof.recipe, quantization=None)
                built[name] = build_engine(one, one.graph, None, recipe, folder, precision="fp32")
        sessions = {**attempt.candidate.sessions, **{name: engine.candidate for name, engine in built.items()}}
        yield OpenProgram(sessions, proof.program.states, proof.program.assets)
    finally:
        for engine in built.values():
            engine.candidate.close()
        shutil.rmtree(folder, ignore_errors=True)


def _multiplies_bytes(quantized: Quantized) -> bool:
    """Whether an engine was found to multiply activations in few bits, which is asked for to save time."""
    ran = quantized.coverage.executed
    return bool(ran) and any(op.block is None for op in quantized.plan.quantized())


def _weights_bytes(prepared: PreparedModel) -> int:
    return 4 * sum(tensor.numel() for tensor in prepared.part.module.parameters())


def _has_room(folder: Path, weights: int) -> bool:
    memory = available_memory()
    return shutil.disk_usage(folder).free >= weights and (memory is None or memory >= COPIES * weights)
