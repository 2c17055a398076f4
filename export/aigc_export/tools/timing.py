"""Time two sessions against each other: alternating, so that a noisy machine disturbs both alike."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.errors import ConfigError
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.kind import SINGLE_ENGINE, Roles
from aigc_runtime.proof.bench import bench_step

__all__ = ["MAX_ROUNDS", "SideBySide", "check_rounds", "time_side_by_side", "torch_threads"]

MAX_ROUNDS = 10_000


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Medians of one step at batch 1, and their ratio.

    Attributes:
        reference_ms: of the one that is measured against: PyTorch eager, or another bundle.
        candidate_ms: of the other; a bundle's engine with the runtime's Python around it.
        speedup: median over the rounds of reference / candidate: above 1, the candidate is faster.
        rounds: (reference, candidate) of every round, milliseconds.
    """

    reference_ms: float
    candidate_ms: float
    speedup: float
    rounds: tuple[tuple[float, float], ...]


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Give PyTorch as many threads as the engine has."""
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_rounds(rounds: int) -> None:
    """Raise ConfigError for a number of rounds that is none, or that nobody waits for."""
    count = as_integer(rounds)
    if count is None or not 1 <= count <= MAX_ROUNDS:
        raise ConfigError(f"rounds is {shown(rounds)}", hint=f"must be from 1 to {MAX_ROUNDS:,}")


def time_side_by_side(
    reference: OpenProgram | Session,
    candidate: OpenProgram | Session,
    settings: Any,
    roles: Roles = SINGLE_ENGINE,
    *,
    rounds: int = 5,
    runs: int = 30,
) -> SideBySide:
    """Alternate A B B A A B, so that neither is always the second, and take medians.

    Args:
        reference: sessions of PyTorch or of a bundle.
        candidate: sessions of the same model.
        settings: of the pipeline, which say what a step is.
        roles: which engine has which role in it.
        rounds: how often to alternate.
        runs: steps per round and side.

    Raises:
        ConfigError: more rounds than `MAX_ROUNDS`, or none.
        InputError: no runs, or too many.
    """
    check_rounds(rounds)
    pairs: list[tuple[float, float]] = []
    for number in range(rounds):
        both = (reference, candidate) if number % 2 == 0 else (candidate, reference)
        times = [bench_step(session, settings, roles, runs=runs).median_ms for session in both]
        pairs.append((times[0], times[1]) if number % 2 == 0 else (times[1], times[0]))
    return SideBySide(
        reference_ms=statistics.median(a for a, _ in pairs),
        candidate_ms=statistics.median(b for _, b in pairs),
        speedup=statistics.median(a / b for a, b in pairs),
        rounds=tuple(pairs),
    )
