"""Quantization of the shipped models: ours beside ONNX Runtime's and NNCF's own, same graph, data, samples and run.

    .venv/bin/python benchmarks/quantization.py                 # everything; about half an hour on two cores
    .venv/bin/python benchmarks/quantization.py --rows speed    # quality, auto, speed or memory
    .venv/bin/python benchmarks/quantization.py --json > figures.json

NNCF is optional (`pip install nncf`). Every tool calibrates on the same samples and is evaluated on held-out text, or
on noise that it has not seen, beside PyTorch (`aigc_models.evaluation.paired`). Of ONNX Runtime's and NNCF's
configurations the best on the first seed stands for the tool: chosen with hindsight, which ours is not. Progress goes
to standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from quant_baselines import NNCF_MISSING, Variant, nncf_variants, nncf_version, ort_variants
from quant_subjects import SUBJECTS, Subject, load_subject
from rich.console import Console
from rich.table import Table

from aigc_calibration.formats import UNSIGNED_FORMAT
from aigc_calibration.plan import as_site_precision
from aigc_calibration.quantize import quantize
from aigc_export.workloads import get_workload

PRECISIONS = ("fp16", "bf16", "int8", "fp8", "int8-weight", "int4")
TARGETS: Mapping[tuple[str, str], float] = {
    ("lm", "int8"): 0.001,
    ("lm", "int4"): 0.003,
    ("lm", "fp16"): 0.0002,
    ("lm-outliers", "int8"): 0.002,
    ("unet", "int8"): 44.0,
    ("unet", "fp16"): 70.0,
    ("gan", "int8"): 51.0,
    ("gan", "fp16"): 80.0,
}
"""(subject, precision) -> perplexity increase at most, or PSNR at least."""
AUTO_DB, AUTO_SECONDS = 45.0, 180.0
SPEED_TARGETS = {"lm": 1.5, "unet": 1.5, "gan": 1.8}
MEMORY_RATIO = 1.1
PROMPT = 128
MAX_SIZE_RATIO = 0.95
"""A graph that is not smaller than this share of the float one was left as it was."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure: mean over seeds, and the standard error of that mean."""

    subject: str
    precision: str
    tool: str
    how: str
    measure: str
    value: float
    error: float
    seeds: int
    size_mb: float
    target: float | None


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# Quality


def ours(subject: Subject, precision: str, seed: int) -> bytes:
    run = get_workload(subject.program.kind).run_as(precision, UNSIGNED_FORMAT)
    found = quantize(subject.graph, subject.data(seed), subject.config(run), precision=as_site_precision(run))
    data: bytes = ir.to_proto(found.graph).SerializeToString()
    return data


def evaluated(subject: Subject, model: bytes, seed: int, samples: int) -> tuple[float, float]:
    session = subject.open(model)
    try:
        paired = subject.evaluator(seed, samples)(session).paired
    finally:
        session.close()
    metric = next(m for m in paired if m.name == subject.measure)
    return metric.value, metric.standard_error


def better(subject: Subject, a: float, b: float) -> bool:
    return a < b if subject.measure == "ppl_increase" else a > b


def over_seeds(
    subject: Subject, precision: str, tool: str, how: str, make: Callable[[int], bytes], seeds: int, samples: int
) -> Row:
    found, size = [], 0.0
    for seed in range(seeds):
        model = make(seed)
        size = len(model) / 1e6
        found.append(evaluated(subject, model, seed, samples))
    values = [v for v, _ in found]
    # Samples differ from seed to seed, so that the seeds' spread holds both errors.
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else found[0][1]
    row = Row(
        subject=subject.name,
        precision=precision,
        tool=tool,
        how=how,
        measure=subject.measure,
        value=statistics.mean(values),
        error=error,
        seeds=seeds,
        size_mb=size,
        target=TARGETS.get((subject.name, precision)),
    )
    say(f"{row.subject:12} {row.precision:12} {row.tool:14} {row.value:.5g} ± {row.error:.2g}  {row.how}")
    return row


def rival(
    subject: Subject,
    precision: str,
    tool: str,
    variants: Callable[[int], Mapping[str, Variant]],
    seeds: int,
    samples: int,
) -> Row | None:
    """The best configuration of a tool on the first seed, then on all of them."""
    best: tuple[float, str] | None = None
    for name, make in variants(0).items():
        try:
            model = make()
            if len(model) > MAX_SIZE_RATIO * len(subject.proto_bytes()):
                say(f"  {tool} {subject.name} {precision} {name}: quantizes nothing here")
                continue
            value, _ = evaluated(subject, model, 0, samples)
        except Exception as err:  # a tool that fails in one configuration may work in another
            say(f"  {tool} {subject.name} {precision} {name}: {type(err).__name__}: {str(err)[:120]}")
            continue
        say(f"  {tool} {subject.name} {precision} {name}: {value:.5g}")
        if math.isfinite(value) and (best is None or better(subject, value, best[0])):
            best = (value, name)
    if best is None:
        return None
    chosen = best[1]
    return over_seeds(subject, precision, tool, chosen, lambda s: variants(s)[chosen](), seeds, samples)


def quality(seeds: int, samples: int, subjects: Sequence[str] = tuple(SUBJECTS)) -> Iterator[Row]:
    rivals: list[tuple[str, Callable[[Subject, str, int], Mapping[str, Variant]]]] = [("ONNX Runtime", ort_variants)]
    if nncf_version() is None:
        say(NNCF_MISSING)
    else:
        rivals.append(("NNCF", nncf_variants))
    for name in subjects:
        subject = load_subject(name)
        for precision in ("int8",) if name in {"lm-outliers", "gan-float-image"} else PRECISIONS:
            yield from _rows(subject, precision, rivals, seeds, samples)


def _rows(
    subject: Subject,
    precision: str,
    rivals: list[tuple[str, Callable[[Subject, str, int], Mapping[str, Variant]]]],
    seeds: int,
    samples: int,
) -> Iterator[Row]:
    yield over_seeds(
        subject, precision, "ours", "defaults", lambda seed: ours(subject, precision, seed), seeds, samples
    )
    for tool, variants in rivals:
        found = rival(subject, precision, tool, partial(variants, subject, precision), seeds, samples)
        if found is not None:
            yield found


def quality_table(rows: list[Row]) -> Table:
    table = Table(title="perplexity increase (lower is better) and PSNR in dB (higher is better)", title_justify="left")
    for heading in ("model", "precision", "ours", "ONNX Runtime", "NNCF", "to reach", "ours against the best other"):
        table.add_column(heading, overflow="fold")
    for key in dict.fromkeys((r.subject, r.precision) for r in rows):
        tools = {r.tool: r for r in rows if (r.subject, r.precision) == key}
        mine = tools["ours"]
        others = [r.value for t, r in tools.items() if t != "ours"]
        lower = mine.measure == "ppl_increase"
        best = (min(others) if lower else max(others)) if others else None
        lead = None if best is None else (best - mine.value if lower else mine.value - best)
        reached = mine.target is not None and (mine.value <= mine.target if lower else mine.value >= mine.target)
        goal = "" if mine.target is None else f"{_figure(mine.target, lower)}: {'reached' if reached else 'MISSED'}"
        table.add_row(
            *key,
            *(_shown(tools.get(t), lower) for t in ("ours", "ONNX Runtime", "NNCF")),
            goal,
            "no other" if lead is None else f"{'ahead' if lead >= 0 else 'BEHIND'} by {_figure(abs(lead), lower)}",
        )
    return table


def _figure(value: float, percent: bool) -> str:
    return f"{value * 100:.3f} %" if percent else f"{value:.1f} dB"


def _shown(row: Row | None, percent: bool) -> str:
    if row is None:
        return "-"
    how = "" if row.tool == "ours" else f"\n{row.how}"
    return f"{_figure(row.value, percent)} ± {_figure(row.error, percent)}{how}"


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
                times = _alternate(runs, rounds)
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


def _alternate(runs: list[Callable[[], object]], rounds: int) -> list[tuple[float, float]]:
    for run in runs:
        for _ in range(3):
            run()
    started = time.perf_counter()
    runs[0]()
    count = max(2, int(0.05 / (time.perf_counter() - started)))
    found = []
    for _ in range(rounds):
        seconds = []
        for run in runs:
            started = time.perf_counter()
            for _ in range(count):
                run()
            seconds.append((time.perf_counter() - started) / count)
        found.append((seconds[0], seconds[1]))
    return found


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", choices=("quality", "auto", "speed", "memory"), action="append")
    parser.add_argument("--subject", choices=tuple(SUBJECTS), action="append", help="of the quality rows")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    wanted = arguments.rows or ["quality", "auto", "speed", "memory"]
    found: dict[str, Any] = {"nncf": nncf_version()}
    if "quality" in wanted:
        found["quality"] = list(quality(arguments.seeds, arguments.samples, arguments.subject or tuple(SUBJECTS)))
    if "auto" in wanted:
        found["auto"] = auto()
    if "speed" in wanted:
        found["speed"] = speed()
    if "memory" in wanted:
        found["memory"] = [memory("gan")]
    if arguments.json:
        print(json.dumps({**found, "quality": [asdict(r) for r in found.get("quality", [])]}, indent=1))
        return
    console = Console(width=150)
    if "quality" in found:
        console.print(quality_table(found["quality"]))
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
