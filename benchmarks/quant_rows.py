"""Rows of the quantization benchmark: one for each finished measurement, in a file that a stopped run goes on with."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from quant_subjects import LANGUAGE
from rich.table import Table

__all__ = ["DEFAULTS", "MIN_MAX", "OURS", "TARGETS", "Row", "append_row", "best_how", "quality_table", "read_rows"]

OURS, DEFAULTS, MIN_MAX = "ours", "defaults", "min-max"
TARGETS = {
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


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement.

    Attributes:
        subject: key of `SUBJECTS`.
        precision: of the product.
        tool: `ours`, or another's name.
        how: its configuration.
        seed: of the calibration's samples and of the judge's.
        measure: PSNR in decibels, or growth of perplexity (0.01 is one percent).
        value: of the measure; None where the tool failed.
        error: its standard error over the judged samples.
        size_mb: of the graph, in 10^6 bytes.
        seconds: of the quantization, calibration included.
        samples: to calibrate on; None for the subject's own number.
        judged: samples that were asked for.
        speed_up: time of a step in fp32 over the time here; None where it was not timed.
        failed: why there is no value, a line.
    """

    subject: str
    precision: str
    tool: str
    how: str
    seed: int
    measure: str
    value: float | None
    error: float = 0.0
    size_mb: float = 0.0
    seconds: float = 0.0
    samples: int | None = None
    judged: int = 0
    speed_up: float | None = None
    failed: str = ""

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What is measured once."""
        return self.subject, self.precision, self.tool, self.how, self.seed


def read_rows(file: Path | None) -> list[Row]:
    """The rows of a file; none where there is no file.

    Raises:
        ValueError: a line that is no row; names it.
    """
    if file is None or not file.is_file():
        return []
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(Row(**json.loads(line)))
        except (TypeError, json.JSONDecodeError) as err:
            raise ValueError(f"line {number} of {file} is no row: {err}") from err
    return rows


def append_row(file: Path | None, row: Row) -> None:
    """Add a row to a file."""
    if file is not None:
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(asdict(row)) + "\n")


def is_better(measure: str, one: float, other: float) -> bool:
    """Whether a value is better than another: less growth of perplexity, more decibels."""
    return one < other if measure == LANGUAGE else one > other


def best_how(rows: Iterable[Row], subject: str, precision: str, tool: str) -> str | None:
    """The configuration of a tool that is best on seed 0: chosen with hindsight. None where none worked."""
    best: Row | None = None
    for row in rows:
        if (row.subject, row.precision, row.tool, row.seed) != (subject, precision, tool, 0) or row.value is None:
            continue
        if best is None or best.value is None or is_better(row.measure, row.value, best.value):
            best = row
    return None if best is None else best.how


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A configuration over its seeds.

    Attributes:
        how: the configuration.
        measure: see `Row`.
        value: mean over seeds.
        error: standard error of that mean; of one seed, over the judged samples.
        seeds: how many.
        speed_up: of the first seed that was timed.
    """

    how: str
    measure: str
    value: float
    error: float
    seeds: int
    speed_up: float | None

    def __str__(self) -> str:
        """As the table shows it."""
        shown = f"{as_figure(self.value, self.measure)} ± {as_figure(self.error, self.measure)}"
        return shown if self.speed_up is None else f"{shown}, {self.speed_up:.2f}x"


def summary(rows: Iterable[Row], subject: str, precision: str, tool: str, how: str) -> Summary | None:
    """The mean over seeds; None where no seed has a value."""
    found = [r for r in rows if r.key[:4] == (subject, precision, tool, how) and r.value is not None]
    if not found:
        return None
    values = [r.value for r in found if r.value is not None]
    # Samples differ from seed to seed, so that the seeds' spread holds both errors.
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else found[0].error
    return Summary(
        how=how,
        measure=found[0].measure,
        value=statistics.mean(values),
        error=error,
        seeds=len(values),
        speed_up=next((r.speed_up for r in found if r.speed_up is not None), None),
    )


def as_figure(value: float, measure: str) -> str:
    """A value with its unit."""
    return f"{value * 100:.3f} %" if measure == LANGUAGE else f"{value:.1f} dB"


def quality_table(rows: Sequence[Row], held_out: Sequence[str] = ()) -> Table:
    """Every subject and precision of the rows: ours beside the best configuration of each other tool.

    Args:
        rows: of a file or a run.
        held_out: subjects that defaults are not changed by.
    """
    table = Table(title="perplexity increase (lower is better) and PSNR in dB (higher is better)", title_justify="left")
    tools = tuple(dict.fromkeys(("ONNX Runtime", "NNCF", *(r.tool for r in rows if r.tool != OURS))))
    for heading in (
        "model",
        "precision",
        "ours",
        "ours, min-max",
        *tools,
        "to reach",
        "against the best other",
        "min-max",
    ):
        table.add_column(heading, overflow="fold")
    for subject, precision in dict.fromkeys((r.subject, r.precision) for r in rows):
        mine = summary(rows, subject, precision, OURS, DEFAULTS)
        plain = summary(rows, subject, precision, OURS, MIN_MAX)
        others = {tool: _best(rows, subject, precision, tool) for tool in tools}
        best = None
        for other in others.values():
            if other is not None and (best is None or is_better(other.measure, other.value, best.value)):
                best = other
        table.add_row(
            f"{subject}{' (held out)' if subject in held_out else ''}",
            precision,
            _own(rows, subject, precision, mine),
            "-" if plain is None else str(plain),
            *("-" if other is None else f"{other}\n{other.how}" for other in others.values()),
            _goal(mine, TARGETS.get((subject, precision))),
            _lead(mine, best),
            _lead(mine, plain),
        )
    return table


def _best(rows: Sequence[Row], subject: str, precision: str, tool: str) -> Summary | None:
    how = best_how(rows, subject, precision, tool)
    return None if how is None else summary(rows, subject, precision, tool, how)


def _own(rows: Sequence[Row], subject: str, precision: str, mine: Summary | None) -> str:
    """Ours, or why it has none."""
    if mine is not None:
        return str(mine)
    failed = [r.failed for r in rows if r.key[:4] == (subject, precision, OURS, DEFAULTS)]
    return f"FAILED: {failed[0]}" if failed else "-"


def _goal(mine: Summary | None, target: float | None) -> str:
    if mine is None or target is None:
        return ""
    missed = is_better(mine.measure, target, mine.value)
    return f"{as_figure(target, mine.measure)}: {'MISSED' if missed else 'reached'}"


def _lead(mine: Summary | None, other: Summary | None) -> str:
    if mine is None or other is None:
        return "no other" if other is None else ""
    behind = is_better(mine.measure, other.value, mine.value)
    return f"{'BEHIND' if behind else 'ahead'} by {as_figure(abs(mine.value - other.value), mine.measure)}"
