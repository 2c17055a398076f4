"""Runtime against PyTorch eager on the shipped weights: batch 1, equal threads, alternating rounds, medians.

    .venv/bin/python benchmarks/speed.py --threads 2

Prints one table: a step of each model on both sides, their ratio, and the share of Python around the engine in a
whole generation. The figures to reach are in the last column.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aigc_export.line.exporter import export_model
from aigc_export.line.origin import load_original
from aigc_export.recipes.recipe import export_recipe
from aigc_export.tools.timing import time_side_by_side, torch_threads
from aigc_models.torch_session import TorchSession
from aigc_runtime.opening import open_session
from aigc_runtime.proof.bench import bench_generation

CASES: tuple[tuple[str, dict[str, Any], float, float | None], ...] = (
    ("lm", {"cache": "growing"}, 2.0, 0.15),
    ("lm", {"cache": "buffer"}, 2.0, 0.15),
    ("unet", {}, 1.0, 0.05),
    ("gan", {}, 1.2, None),
)
"""model, export options, speed-up to reach, largest share of Python around the engine."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [measure(*case, threads=arguments.threads, rounds=arguments.rounds) for case in CASES]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(title=f"batch 1, {arguments.threads} threads")
    for heading in ("model", "PyTorch ms", "runtime ms", "speed-up", "to reach", "Python share", "at most"):
        table.add_column(heading)
    for r in rows:
        most = "-" if r["python_share_limit"] is None else f"{r['python_share_limit']:.0%}"
        table.add_row(
            r["model"],
            f"{r['torch_ms']:.3f}",
            f"{r['runtime_ms']:.3f}",
            f"{r['speedup']:.2f}x",
            f"{r['speedup_limit']}x",
            f"{r['python_share']:.1%}",
            most,
        )
    Console(width=110).print(table)


def measure(
    name: str, options: dict[str, str], speedup: float, share: float | None, *, threads: int, rounds: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        recipe = export_recipe(name, spec_options=options, quality_samples=0)
        bundle = export_model(recipe, Path(folder) / name).bundle
        session, settings = open_session(bundle, threads=threads), bundle.manifest.pipeline.settings
        with torch_threads(threads):
            reference = TorchSession(load_original(bundle, None).part)
            found = time_side_by_side(reference, session, settings, rounds=rounds, runs=50)
        whole = bench_generation(session, settings, runs=10)
    return {
        "model": " ".join([name, *options.values()]),
        "torch_ms": found.reference_ms,
        "runtime_ms": found.candidate_ms,
        "speedup": found.speedup,
        "speedup_limit": speedup,
        "python_share": whole.python_share,
        "python_share_limit": share,
    }


if __name__ == "__main__":
    main()
