"""A parity report for people (a table), for machines (JSON) and for CI (JUnit XML)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from aigc_runtime.paired import PairedCheck
from aigc_runtime.publish import atomic_write_bytes
from aigc_runtime.verify import ParityReport, TensorCheck

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["junit_xml", "parity_table", "write_json", "write_junit"]


def parity_table(report: ParityReport) -> Table:
    """The worst check of every case, the generation and the quality."""
    from rich.table import Table

    table = Table(title=f"{report.name} · {report.target} · {report.precision}", title_justify="left")
    for heading in ("check", "measured", "limit or PyTorch", ""):
        table.add_column(heading, overflow="fold")
    for case in dict.fromkeys(c.case for c in report.tensors):
        worst = min((c for c in report.tensors if c.case == case), key=lambda c: (c.passed, c.errors.sqnr_db))
        table.add_row(f"tensor {worst.output}, {case}", _errors(worst), "; ".join(worst.reasons), _mark(worst.passed))
    g = report.generation
    table.add_row("generation", f"{g.metric} {g.value:.4g}", f">= {g.limit:g}", _mark(g.passed))
    for p in report.paired:
        limit = "" if p.limit is None else f"{'>=' if p.metric.higher_is_better else '<='} {p.limit:g}"
        table.add_row(f"paired {p.metric.name}", _paired(p), limit, _mark(p.passed))
    for q in report.quality:
        table.add_row(f"quality {q.metric}", f"{q.actual:.5g}", f"PyTorch {q.reference:.5g}", _mark(q.passed))
    return table


def _errors(check: TensorCheck) -> str:
    e = check.errors
    return (
        e.problem or f"max {e.max_abs:.1e} ({e.max_over_rms:.1e} of the RMS), cosine {e.cosine:.7f}, {e.sqnr_db:.0f} dB"
    )


def _paired(check: PairedCheck) -> str:
    metric = check.metric
    error = f" ± {metric.standard_error:.2g}" if metric.standard_error else ""
    return f"{metric.value:.4g}{error} over {metric.samples}"


def _mark(passed: bool) -> str:
    return "[green]pass[/]" if passed else "[red]FAIL[/]"


def write_json(report: ParityReport, path: Path | str) -> None:
    """The whole report as JSON; raises OutputError if it cannot be written."""
    atomic_write_bytes(path, (json.dumps(report.to_dict(), indent=2, allow_nan=False) + "\n").encode())


def junit_xml(report: ParityReport, *, seconds: float) -> bytes:
    """The report as JUnit XML: one test case per check."""
    suite = ET.Element("testsuite", name=f"parity {report.name} {report.target} {report.precision}")
    cases = [(f"tensor {c.case} step {c.step} {c.output}", _errors(c), c.reasons) for c in report.tensors]
    g = report.generation
    cases.append((f"generation {g.metric}", f"{g.value:.6g}", g.reasons))
    for p in report.paired:
        missed = () if p.passed else (f"{p.metric.value:.6g}, the limit is {p.limit:g}",)
        cases.append((f"paired {p.metric.name}", _paired(p), missed))
    for q in report.quality:
        missed = () if q.passed else (f"{q.actual:.6g} against {q.reference:.6g}: {q.drop:.3%} worse",)
        cases.append((f"quality {q.metric}", f"{q.actual:.6g}", missed))
    if not report.tensors:
        cases.append(("tensors", "", ("no tensor was compared",)))
    for name, measured, reasons in cases:
        case = ET.SubElement(suite, "testcase", classname=f"aigc.{report.name}", name=name)
        if reasons:
            ET.SubElement(case, "failure", message="; ".join(reasons)).text = measured
        else:
            ET.SubElement(case, "system-out").text = measured
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(1 for _, _, reasons in cases if reasons)))
    suite.set("errors", "0")
    suite.set("time", f"{seconds:.3f}")
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suite)


def write_junit(report: ParityReport, path: Path | str, *, seconds: float) -> None:
    """`junit_xml` to a file; raises OutputError if it cannot be written."""
    atomic_write_bytes(path, junit_xml(report, seconds=seconds))
