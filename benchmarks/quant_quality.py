"""The quality of every tool's quantized graph: same float graph, same samples, same judge, several seeds."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
from quant_baselines import Variant, nncf_variants, ort_variants
from quant_rows import DEFAULTS, MIN_MAX, OURS, Row, append_row, best_how
from quant_subjects import SUBJECTS, Subject, load_subject

from aigc_calibration.formats import UNSIGNED_FORMAT
from aigc_calibration.onnx_function import opened_when_called
from aigc_calibration.plan import as_site_precision
from aigc_calibration.quantize import quantize
from aigc_export.workloads import get_workload
from aigc_runtime.core.session import Session

__all__ = ["Asked", "alternate", "missing_rows", "ours", "say"]

MAX_SIZE_RATIO = 0.95
"""A graph that is not smaller than this share of the float one was left as it was."""
CHANGES: Mapping[str, Mapping[str, Any]] = {
    DEFAULTS: {},
    MIN_MAX: {"ranges": "minmax"},
    "mse": {"ranges": "mse"},
    "channels as they are": {"equalize": 0.0},
}
"""Ours, and what is changed about `QuantConfig`; the others are for activations in 8 bits alone."""
ROUNDS = 11


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What rows are asked for.

    Attributes:
        subjects: names.
        precisions: empty for each subject's own.
        tools: of `ours`, `ONNX Runtime`, `NNCF`; empty for all.
        hows: names of configurations; empty for all.
        seeds: how many.
        judged: samples to judge on, at most.
        samples: to calibrate on; None for each subject's own number.
        threads: of the engines that calibrate ours and judge; None for all cores.
        nncf: an interpreter with NNCF; None for none.
        timed: whether the speed beside fp32 is measured on seed 0.
    """

    subjects: tuple[str, ...]
    precisions: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    hows: tuple[str, ...] = ()
    seeds: int = 3
    judged: int = 200
    samples: int | None = None
    threads: int | None = None
    nncf: str | None = None
    timed: bool = False


def say(text: str) -> None:
    """Progress, to standard error."""
    print(text, file=sys.stderr, flush=True)


def ours(
    subject: Subject,
    precision: str,
    seed: int,
    *,
    samples: int | None = None,
    threads: int | None = None,
    changes: Mapping[str, Any] = CHANGES[DEFAULTS],
) -> bytes:
    """The product's quantized graph, as an export for ONNX Runtime on a CPU makes it before limits are checked."""
    run = get_workload(subject.program.kind).run_as(precision, UNSIGNED_FORMAT)
    found = quantize(
        subject.graph,
        subject.data(seed, samples),
        replace(subject.config(run), **changes),
        precision=as_site_precision(run),
        outputs=tuple(tensor.name for tensor in subject.part.interface.outputs),
        threads=threads,
    )
    data: bytes = ir.to_proto(found.graph).SerializeToString()
    return data


def our_variants(subject: Subject, precision: str, seed: int, asked: Asked) -> dict[str, Variant]:
    """name -> how ours quantizes; its ranges mean something to activations in 8 bits alone."""
    run = get_workload(subject.program.kind).run_as(precision, UNSIGNED_FORMAT)
    return {
        how: partial(ours, subject, precision, seed, samples=asked.samples, threads=asked.threads, changes=changes)
        for how, changes in CHANGES.items()
        if how == DEFAULTS or run == "int8"
    }


def tools_of(asked: Asked) -> dict[str, Callable[[Subject, str, int], Mapping[str, Variant]]]:
    """name of a tool -> (subject, precision, seed) -> its configurations."""
    found: dict[str, Callable[[Subject, str, int], Mapping[str, Variant]]] = {
        OURS: lambda subject, precision, seed: our_variants(subject, precision, seed, asked),
        "ONNX Runtime": partial(ort_variants, samples=asked.samples),
    }
    if (python := asked.nncf) is not None:
        found["NNCF"] = lambda subject, precision, seed: nncf_variants(subject, precision, seed, python, asked.samples)
    return {name: make for name, make in found.items() if not asked.tools or name in asked.tools}


def missing_rows(asked: Asked, known: Sequence[Row], file: Path | None) -> Iterator[Row]:
    """Measure what is asked for and not known; each row is in the file before it is given.

    All configurations are measured on seed 0; of another tool only the best of them on the other seeds.

    Args:
        asked: what is asked for.
        known: rows of an earlier run.
        file: that rows are added to; None for none.
    """
    rows = list(known)
    for name in asked.subjects:
        subject: Subject | None = None
        for precision in asked.precisions or SUBJECTS[name].precisions:
            for seed in range(asked.seeds):
                for tool, variants in tools_of(asked).items():
                    if subject is None and _is_done(rows, name, precision, tool, seed, asked):
                        continue
                    subject = subject or load_subject(name)
                    for how, make in variants(subject, precision, seed).items():
                        if not _is_wanted(rows, (name, precision, tool, how, seed), asked):
                            continue
                        row = measured(subject, precision, tool, how, seed, make, asked)
                        rows.append(row)
                        append_row(file, row)
                        yield row


def _is_done(rows: Sequence[Row], subject: str, precision: str, tool: str, seed: int, asked: Asked) -> bool:
    """Whether a tool's rows are known, as far as can be said without the subject: on other seeds than 0."""
    first = [r.how for r in rows if r.key == (subject, precision, tool, r.how, 0)]
    return (
        seed > 0
        and bool(first)
        and not any(_is_wanted(rows, (subject, precision, tool, h, seed), asked) for h in first)
    )


def _is_wanted(rows: Sequence[Row], key: tuple[str, str, str, str, int], asked: Asked) -> bool:
    subject, precision, tool, how, seed = key
    if key in {row.key for row in rows} or (asked.hows and how not in asked.hows):
        return False
    return tool == OURS or seed == 0 or how == best_how(rows, subject, precision, tool)


def measured(subject: Subject, precision: str, tool: str, how: str, seed: int, make: Variant, asked: Asked) -> Row:
    """Quantize and judge; a tool that fails in one configuration may work in another, so that it is a row, too."""
    row = Row(
        subject=subject.name,
        precision=precision,
        tool=tool,
        how=how,
        seed=seed,
        measure=subject.measure,
        value=None,
        samples=asked.samples,
        judged=asked.judged,
    )
    started = time.perf_counter()
    try:
        model = make()
        row = replace(row, size_mb=len(model) / 1e6, seconds=round(time.perf_counter() - started, 2))
        if tool != OURS and len(model) > MAX_SIZE_RATIO * len(subject.proto_bytes()):
            return _told(replace(row, failed="quantizes nothing here"))
        session = subject.open(model, threads=asked.threads)
        try:
            value, error = subject.judge(session, seed=seed, samples=asked.judged)
            ratio = speed_up(subject, session, asked.threads) if asked.timed and seed == 0 else None
        finally:
            session.close()
    except Exception as err:
        told = " ".join(f"{type(err).__name__}: {err}".split())
        return _told(replace(row, seconds=round(time.perf_counter() - started, 2), failed=told[:300]))
    if not (math.isfinite(value) and math.isfinite(error)):
        return _told(replace(row, failed=f"the measure is {value}"))
    return _told(replace(row, value=value, error=error, speed_up=ratio))


def _told(row: Row) -> Row:
    found = row.failed or f"{row.value:.5g} ± {row.error:.2g}"
    ratio = "" if row.speed_up is None else f", {row.speed_up:.2f}x"
    say(
        f"{row.subject:12} {row.precision:11} {row.tool:12} {row.how}, seed {row.seed}: {found}{ratio}, {row.seconds} s"
    )
    return row


def speed_up(subject: Subject, session: Session, threads: int | None) -> float | None:
    """How many times as fast as the float graph, on one batch of calibration data: the median of alternating rounds.

    None where state is carried: `--rows speed` times language models.
    """
    if subject.part.interface.state:
        return None
    feeds = next(iter(subject.data(0, 2).batches(opened_when_called(subject.graph))))
    plain = subject.open(subject.proto_bytes(), threads=threads)
    try:
        times = alternate([lambda: plain.run(feeds), lambda: session.run(feeds)], ROUNDS)
    finally:
        plain.close()
    return statistics.median(a / b for a, b in times)


def alternate(runs: Sequence[Callable[[], object]], rounds: int) -> list[tuple[float, float]]:
    """Time two functions in turn: seconds of one call of each, by rounds of at least 50 ms of the first."""
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
