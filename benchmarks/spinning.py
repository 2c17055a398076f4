"""What it brings to let ONNX Runtime's threads spin between operators, and what that costs a second process.

    python benchmarks/spinning.py BUNDLE ... [--spins 0,20,1000] [--threads 2] [--rounds 5]

The smallest step of each bundle (a token, a denoising step, a picture) is timed with every spin in turn, A B A B:
alone, and while a second process does the same. Milliseconds, medians. The table is in docs/speed.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import aigc_runtime.backends.ort.open as opening
from aigc_runtime.backends.ort.spinning import spin_shortly
from aigc_runtime.bundle.bundle import load_bundle
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.opening import open_program
from aigc_runtime.proof.bench import bench_step

SPINS = "0,20,1000"
RUNS = 20
"""Steps of a turn, of which the median counts."""


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--spins", default=SPINS, help="microseconds, with commas between them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    spins = [int(one) for one in asked.spins.split(",")]
    print("| bundle | spin, us | alone, ms | two processes, ms |")
    print("| --- | ---: | ---: | ---: |")
    for bundle in asked.bundles:
        for spin, alone, beside in measured(bundle, spins, asked.threads, asked.rounds):
            print(f"| {bundle.name} | {spin} | {alone:.2f} | {beside:.2f} |", flush=True)
    return 0


def measured(
    bundle: Path, spins: Sequence[int], threads: int, rounds: int, runs: int = RUNS
) -> Iterator[tuple[int, float, float]]:
    """Each spin with the milliseconds of a step alone, and beside another process that takes the same steps."""
    alone = {spin: list[float]() for spin in spins}
    beside = {spin: list[float]() for spin in spins}
    steps = {spin: steps_of(bundle, spin, threads, runs) for spin in spins}
    for _ in range(rounds):
        for spin, step in steps.items():
            alone[spin].append(step())
    for _ in range(rounds):
        for spin, step in steps.items():
            neighbor = multiprocessing.get_context("spawn").Process(
                target=keep_busy, args=(bundle, spin, threads), daemon=True
            )
            neighbor.start()
            neighbor.join(timeout=4)  # it opens the bundle meanwhile
            beside[spin].append(step())
            neighbor.terminate()
            neighbor.join()
    for spin in spins:
        yield spin, statistics.median(alone[spin]), statistics.median(beside[spin])


def steps_of(bundle: Path, spin: int, threads: int, runs: int) -> Callable[[], float]:
    """A call that takes some steps and gives the median of their milliseconds."""
    opened, settings, roles = open_spinning(bundle, spin, threads)

    def take() -> float:
        return bench_step(opened, settings, roles, runs=runs, warmup=3).median_ms

    return take


def keep_busy(bundle: Path, spin: int, threads: int) -> None:
    """Take steps until the process is ended."""
    step = steps_of(bundle, spin, threads, RUNS)
    while True:
        step()


def open_spinning(bundle: Path, spin: int, threads: int) -> tuple[OpenProgram, Any, Any]:
    """Open a bundle whose threads spin for some microseconds."""
    with mock.patch.object(opening, "spin_shortly", partial(spin_shortly, microseconds=spin)):
        found = load_bundle(bundle)
        pipeline = found.manifest.pipeline
        return open_program(found, threads=threads), pipeline.settings, pipeline.engines


if __name__ == "__main__":
    raise SystemExit(main())
