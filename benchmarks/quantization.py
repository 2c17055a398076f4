"""Quantization of generators: ours beside ONNX Runtime's and NNCF's own, same graph, data, samples and run.

    .venv/bin/python benchmarks/quantization.py                          # everything; hours
    .venv/bin/python benchmarks/quantization.py --rows speed             # quality, auto, speed or memory
    .venv/bin/python benchmarks/quantization.py --rows quality --subject vae --rows-file rows.jsonl --nncf PYTHON
    .venv/bin/python benchmarks/quantization.py --rows quality --subject srvgg --subject rrdbnet --timed
    .venv/bin/python benchmarks/quantization.py --rows none --rows-file rows.jsonl              # the table of a file

The subjects are the shipped models, networks that others trained (fetched as tests/real does it), and small generators
that are trained here once, in minutes each, and kept in ~/.cache/aigc-export-benchmarks (`benchmarks/trained`). Every
tool calibrates on the same samples and is judged beside PyTorch on held-out text or rows, or on noise that it has not
seen. Of ONNX Runtime's and NNCF's configurations the best on the first seed stands for the tool: chosen with
hindsight, which ours is not. A finished measurement is a line of `--rows-file`; a run goes on with what the file lacks.

NNCF's requirements and ours need not agree: `--nncf` names an interpreter with nncf, onnx and onnxruntime. Progress
goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from quant_baselines import NNCF_MISSING, nncf_version
from quant_quality import Asked, alternate, missing_rows, ours, say
from quant_rows import OURS, quality_table, read_rows
from quant_subjects import PRECISIONS, SUBJECTS, Subject, load_subject
from rich.console import Console
from rich.table import Table
from trained import HELD_OUT

AUTO_DB, AUTO_SECONDS = 45.0, 180.0
SPEED_TARGETS = {"lm": 1.5, "unet": 1.5, "gan": 1.8}
MEMORY_RATIO = 1.1
PROMPT = 128
ROWS = ("quality", "auto", "speed", "memory")
TOOLS = (OURS, "ONNX Runtime", "NNCF")


# The search


def auto() -> dict[str, Any]:
    from aigc_export.line.exporter import export_model
    from aigc_export.recipes.budget import parse_budget
    from aigc_export.recipes.recipe import export_recipe
    from aigc_export.recipes.search import SearchConfig

    with tempfile.TemporaryDirectory() as folder:
        config = SearchConfig(budgets=(parse_budget(f"psnr>={AUTO_DB}"),), objective="ops")
        recipe = export_recipe("unet", precision="auto", search=config)
        started = time.perf_counter()
        found = export_model(replace(recipe), Path(folder) / "unet").search
        whole = time.perf_counter() - started
    assert found is not None
    chosen = next(c for c in found.candidates if c.chosen)
    return {
        "candidate": chosen.name,
        "psnr_db": chosen.value,
        "float_sites": chosen.counts.get("float", 0),
        "sites": sum(chosen.counts.values()),
        "search_seconds": found.seconds,
        "export_seconds": round(whole, 1),
        "evaluated": found.evaluated,
    }


# Speed


def speed_feeds(subject: Subject, batch: int) -> Callable[[Any], Callable[[], object]]:
    """A step of one session: a prompt, a denoising step, an image."""
    rng = np.random.default_rng(0)
    if subject.program.kind == "text":
        ids = rng.integers(32, 127, (batch, PROMPT))
        last = np.array([PROMPT - 1])
        feeds = {"input_ids": ids, "pad_length": np.zeros(batch, np.int64), "logits_to_keep": last}
        return lambda session: lambda: session.run(feeds, session.new_state(batch))
    if subject.program.kind == "diffusion":
        image = rng.standard_normal((batch, 1, 16, 16), dtype=np.float32)
        steps = {"sample": image, "timestep": np.full(batch, 500, np.float32), "class_labels": np.arange(batch) % 10}
        return lambda session: lambda: session.run(steps)
    latents = rng.standard_normal((batch, subject.program.part.interface.graph_inputs[0].shape[1]), dtype=np.float32)  # type: ignore[arg-type]
    one = {"latents": latents, "class_labels": np.arange(batch) % 10}
    return lambda session: lambda: session.run(one)


def speed(rounds: int = 15) -> list[dict[str, Any]]:
    rows = []
    for name in ("lm", "unet", "gan"):
        subject = load_subject(name)
        graphs = (subject.proto_bytes(), ours(subject, "int8", 0))
        for threads in (1, 2):
            for batch in (1, 16):
                step = speed_feeds(subject, batch)
                runs = [step(subject.open(g, threads=threads)) for g in graphs]
                times = alternate(runs, rounds)
                ratio = statistics.median(a / b for a, b in times)
                rows.append(
                    {
                        "model": name,
                        "threads": threads,
                        "batch": batch,
                        "fp32_ms": statistics.median(a for a, _ in times) * 1e3,
                        "int8_ms": statistics.median(b for _, b in times) * 1e3,
                        "ratio": ratio,
                        "target": SPEED_TARGETS[name],
                    }
                )
                say(f"speed {name} batch {batch} threads {threads}: {ratio:.2f}x")
    return rows


def speed_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title=f"int8 over fp32 on ONNX Runtime, medians of alternating rounds (lm: {PROMPT} tokens)")
    for heading in ("model", "threads", "batch", "fp32 ms", "int8 ms", "ratio", "to reach"):
        table.add_column(heading)
    for r in rows:
        goal = f"{r['target']}: {'reached' if r['ratio'] >= r['target'] else 'MISSED'}" if r["threads"] == 1 else ""
        times = (f"{r['fp32_ms']:.3f}", f"{r['int8_ms']:.3f}", f"{r['ratio']:.2f}x")
        table.add_row(r["model"], str(r["threads"]), str(r["batch"]), *times, goal)
    return table


# Memory

CHILD = """
import resource, sys
from aigc_calibration.calibrate import calibrate
from aigc_calibration.prepare import prepare
from quant_subjects import load_subject
subject = load_subject(sys.argv[1])
calibrate(prepare(subject.graph), subject.data(0, int(sys.argv[2])), subject.config("int8"), precision="int8")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def memory(name: str = "gan") -> dict[str, Any]:
    """Peak resident memory of calibrating, each in a process of its own."""
    peak = {}
    for samples in (100, 10_000):
        command = [sys.executable, "-c", CHILD, name, str(samples)]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        peak[samples] = int(done.stdout.split()[-1]) / 1024
        say(f"memory {name} {samples}: {peak[samples]:.0f} MB")
    return {"model": name, "mb_100": peak[100], "mb_10000": peak[10_000], "ratio": peak[10_000] / peak[100]}


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", choices=(*ROWS, "none"), action="append")
    parser.add_argument("--subject", choices=tuple(SUBJECTS), action="append", help="of the quality rows; default: all")
    parser.add_argument("--precision", choices=PRECISIONS, action="append", help="default: each subject's own")
    parser.add_argument("--tool", choices=TOOLS, action="append", help="default: all")
    parser.add_argument("--how", action="append", help="name of a configuration, as rows have it; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=200, help="to judge on, at most")
    parser.add_argument("--calibrated", type=int, help="samples to calibrate on; default: each subject's own")
    parser.add_argument("--threads", type=int, help="of engines; default: all cores")
    parser.add_argument("--timed", action="store_true", help="also the speed of a step beside fp32, on the first seed")
    parser.add_argument("--nncf", metavar="PYTHON", default=sys.executable, help="an interpreter with nncf and onnx")
    parser.add_argument("--rows-file", type=Path, help="of quality rows, one a line: read, and added to")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def asked_for(arguments: argparse.Namespace) -> Asked:
    """The quality rows of a command line; tells where NNCF is lacking."""
    tools = tuple(arguments.tool or TOOLS)
    version = nncf_version(arguments.nncf) if "NNCF" in tools else None
    if "NNCF" in tools and version is None:
        say(NNCF_MISSING)
    return Asked(
        subjects=tuple(arguments.subject or SUBJECTS),
        precisions=tuple(arguments.precision or ()),
        tools=tools,
        hows=tuple(arguments.how or ()),
        seeds=arguments.seeds,
        judged=arguments.samples,
        samples=arguments.calibrated,
        threads=arguments.threads,
        nncf=None if version is None else arguments.nncf,
        timed=arguments.timed,
    )


def main() -> None:
    arguments = parsed()
    wanted = arguments.rows or ROWS
    found: dict[str, Any] = {}
    rows = read_rows(arguments.rows_file)
    if "quality" in wanted:
        rows += missing_rows(asked_for(arguments), tuple(rows), arguments.rows_file)
    if "auto" in wanted:
        found["auto"] = auto()
    if "speed" in wanted:
        found["speed"] = speed()
    if "memory" in wanted:
        found["memory"] = [memory("gan")]
    if arguments.json:
        print(json.dumps({**found, "quality": [asdict(row) for row in rows]}, indent=1))
        return
    console = Console(width=180)
    if rows:
        console.print(quality_table(rows, HELD_OUT))
    if "auto" in found:
        a = found["auto"]
        told = "reached" if a["search_seconds"] <= AUTO_SECONDS and a["psnr_db"] >= AUTO_DB else "MISSED"
        console.print(
            f"auto, unet at {AUTO_DB:g} dB: {a['candidate']}, {a['psnr_db']:.1f} dB, "
            f"{a['float_sites']} of {a['sites']} sites in float, "
            f"searched in {a['search_seconds']:.0f} s (at most {AUTO_SECONDS:.0f}): {told}"
        )
    if "speed" in found:
        console.print(speed_table(found["speed"]))
    for m in found.get("memory", []):
        told = "reached" if m["ratio"] <= MEMORY_RATIO else "MISSED"
        console.print(
            f"memory, {m['model']}: {m['mb_100']:.0f} MB for 100 samples, {m['mb_10000']:.0f} MB for 10,000, "
            f"{m['ratio']:.2f}x (at most {MEMORY_RATIO}): {told}"
        )


if __name__ == "__main__":
    main()
