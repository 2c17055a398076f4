"""Time and memory of bundles with ONNX Runtime's memory patterns and without them; see docs/adr/0050.

    python benchmarks/inner_values.py out/esrgan out/unet --rounds 15

A step of each bundle, by turns in one process; the peak is the largest resident set of a process of its own after four
steps. Patterns are set behind the runtime's back, which leaves them out where no state is carried.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime

from aigc_runtime import open_pipeline
from aigc_runtime.pipelines import kind_of

STEPS = 4
_OPTIONS = onnxruntime.SessionOptions


def step_of(bundle: str, threads: int, *, patterns: bool) -> Callable[[], object]:
    """A step of a bundle whose sessions have patterns, or have none."""

    class Options(_OPTIONS):  # type: ignore[misc, valid-type]
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, patterns if name == "enable_mem_pattern" else value)

    onnxruntime.SessionOptions = Options
    try:
        pipeline = open_pipeline(bundle, threads=threads)
    finally:
        onnxruntime.SessionOptions = _OPTIONS
    step = kind_of(pipeline.settings).step(pipeline)
    for _ in range(STEPS):
        step()
    return step


def peak_mb() -> int:
    """The largest resident set of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1000


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak", choices=["with", "without"], help="of the only bundle, and nothing else")
    given = parser.parse_args()
    if given.peak:
        step_of(given.bundles[0], given.threads, patterns=given.peak == "with")
        print(peak_mb())
        return
    print("| bundle | with, ms | without, ms | speed | with, MB | without, MB |\n| --- | --- | --- | --- | --- | --- |")
    for bundle in given.bundles:
        steps = {patterns: step_of(bundle, given.threads, patterns=patterns) for patterns in (True, False)}
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for number in range(given.rounds):
            for patterns in (True, False) if number % 2 else (False, True):
                started = time.perf_counter()
                for _ in range(STEPS):
                    steps[patterns]()
                seconds[patterns].append((time.perf_counter() - started) / STEPS)
        yes, no = (1e3 * statistics.median(seconds[patterns]) for patterns in (True, False))
        words = [sys.executable, __file__, bundle, "--threads", str(given.threads), "--peak"]
        peaks = [subprocess.check_output([*words, word], encoding="utf-8").strip() for word in ("with", "without")]
        print(f"| {bundle} | {yes:.2f} | {no:.2f} | {yes / no:.2f}x | {peaks[0]} | {peaks[1]} |", flush=True)


if __name__ == "__main__":
    main()
