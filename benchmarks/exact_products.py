"""What exact products of 8-bit numbers cost, and that sessions pay for them only where they must.

    python benchmarks/exact_products.py [--models gan lm unet] [--rounds 40]

Exports each model in fp32 and int8, and times one step at batch 1 on one thread, in alternating rounds, by the time
that the processor spent on it, so that other work on the machine counts little. `default`: as ONNX Runtime chooses its
kernels; `session`: as `open_session` opens the bundle; `exact`: with exact products asked for. On a processor with VNNI
`session` is `default`, elsewhere on x86 it is `exact`. Also shown: the largest difference between results of `default`
and `exact`, and what opening a first session takes in a new process with and without the question which kernels the
processor has.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from aigc_export.line.exporter import export_model
from aigc_export.recipes.recipe import export_recipe
from aigc_runtime.backends.ort import open as ort_open
from aigc_runtime.backends.ort.exact_products import products_saturate
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.opening import open_session
from aigc_runtime.system.processor import instruction_set

OPEN = """
import sys, time
from aigc_runtime.opening import open_session
from aigc_runtime.backends.ort import open as ort_open
from aigc_runtime.bundle.bundle import Bundle
import onnxruntime
if sys.argv[2] == "without":
    ort_open.products_saturate = lambda ort: False
bundle = Bundle.open(sys.argv[1])
started = time.process_time()
open_session(bundle, threads=1)
print(time.process_time() - started)
"""


def opened(bundle: Bundle, saturates: Callable[[object], bool]) -> Session:
    """A session of one thread, on a processor that is said to saturate or not."""
    with mock.patch.object(ort_open, "products_saturate", saturates):
        return open_session(bundle, threads=1)


def step(session: Session, bundle: Bundle) -> dict[str, Array]:
    """The first step of the bundle's first case."""
    first = bundle.manifest.reference.cases[0].steps[0]
    feeds = {name: bundle.array(file)[:1] for name, file in first.inputs.items()}
    return session.run(feeds, session.new_state(1))


def compare(model: str, folder: Path, rounds: int) -> None:
    """One line per way of opening."""
    for precision in ("fp32", "int8"):
        recipe = export_recipe(model, precision=precision, quality_samples=0, threads=1)
        export_model(recipe, folder / f"{model}-{precision}")
    float_bundle, bundle = (Bundle.open(folder / f"{model}-{p}") for p in ("fp32", "int8"))
    sessions = {
        "default": (opened(bundle, lambda _: False), bundle),
        "session": (opened(bundle, products_saturate), bundle),
        "exact": (opened(bundle, lambda _: True), bundle),
        "fp32": (opened(float_bundle, products_saturate), float_bundle),
    }
    results = {name: step(*pair) for name, pair in sessions.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, pair in sessions.items():
            started = time.thread_time()
            for _ in range(5):
                step(*pair)
            times[name].append((time.thread_time() - started) / 5)
    for name, seconds in times.items():
        # The ratio of each round with the default of the same round: load that changes falls on both alike.
        ratios = sorted(a / b for a, b in zip(seconds, times["default"], strict=True))
        median, ratio = statistics.median(seconds) * 1e3, statistics.median(ratios)
        print(f"{model:<5} {name:<8} {median:8.3f} ms  {ratio:5.2f} x default")
    apart = max(float(np.abs(results["exact"][k] - v).max()) for k, v in results["default"].items())
    print(f"{model:<5} default and exact differ by at most {apart:.3g}")


def opening(bundle: Path, rounds: int) -> None:
    """What the first session of a process takes."""
    times: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(rounds):
        for name, seconds in times.items():
            done = subprocess.run([sys.executable, "-c", OPEN, str(bundle), name], capture_output=True, check=True)
            seconds.append(float(done.stdout))
    told = ", ".join(f"{name} the question {statistics.median(s) * 1e3:.1f} ms" for name, s in times.items())
    print(f"{bundle.name}: first session {told}")


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["gan", "lm", "unet"])
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    print(f"instruction set: {instruction_set()}")
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            compare(model, Path(folder), arguments.rounds)
        opening(Path(folder) / f"{arguments.models[0]}-int8", max(3, arguments.rounds // 4))


if __name__ == "__main__":
    main()
