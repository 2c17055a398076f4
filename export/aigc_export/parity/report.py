"""Format a parity report for people (a table), for machines (JSON) and for CI (JUnit XML)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from aigc_runtime.errors import AigcError
from aigc_runtime.io.printable import printable
from aigc_runtime.proof.paired import PairedCheck, named
from aigc_runtime.proof.verify import ParityReport, TensorCheck

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["REPORT_SCHEMA", "junit_xml", "parity_table", "report_json"]

REPORT_SCHEMA = "aigc-export-report/1"


def parity_table(report: ParityReport) -> Table:
    """Make a table of the worst check of every case, the generation and the quality."""
    from rich.markup import escape
    from rich.table import Table

    title = f"{report.name} · {report.target} · {report.precision}"
    table = Table(title=escape(printable(title)), title_justify="left")
    for heading in ("check", "measured", "limit or PyTorch", ""):
        table.add_column(heading, overflow="fold")
    if report.text is not None:
        measured = escape(printable(report.text.measured))
        table.add_row("tokens", measured, "all equal", _mark(report.text.passed))
    for case in dict.fromkeys(c.case for c in report.tensors):
        worst = min((c for c in report.tensors if c.case == case), key=lambda c: (c.passed, c.errors.sqnr_db))
        row = (f"tensor {worst.output}, {case}", _errors(worst), "; ".join(worst.reasons))
        table.add_row(*(escape(printable(cell)) for cell in row), _mark(worst.passed))
    g = report.generation
    table.add_row("generation", f"{g.metric} {g.value:.4g}", f">= {g.limit:g}", _mark(g.passed))
    for p in report.paired:
        limit = "" if p.limit is None else f"{'>=' if p.metric.higher_is_better else '<='} {p.limit:g}"
        name = escape(named(p.metric.name, p.metric.data))
        table.add_row(f"paired {name}", _paired(p), limit, _mark(p.passed))
    for q in report.quality:
        name = escape(named(q.metric, q.data))
        table.add_row(f"quality {name}", f"{q.actual:.5g}", f"PyTorch {q.reference:.5g}", _mark(q.passed))
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


def _measured(value: str, data: str) -> str:
    return f"{value} on {data}" if data else value


def _mark(passed: bool) -> str:
    return "[green]pass[/]" if passed else "[red]FAIL[/]"


def report_json(report: ParityReport | None, error: AigcError | None = None) -> bytes:
    """Write a verb's result as JSON: its parity report, if any, and the error that ended it, if any."""
    found: dict[str, Any] = {"schema": REPORT_SCHEMA}
    if report is not None:
        found |= report.to_dict()
    # A report of parity that passed is no success where the verb failed after it.
    found["passed"] = report is not None and report.passed and error is None
    found["error"] = None if error is None else _error(error)
    return (json.dumps(found, indent=2, allow_nan=False) + "\n").encode()


def _error(error: AigcError) -> dict[str, Any]:
    kind = type(error).__name__
    return {"kind": kind, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}


def junit_xml(
    report: ParityReport | None, error: AigcError | None = None, *, subject: str = "", seconds: float
) -> bytes:
    """Write the result as JUnit XML: one test case per check, and one with an error for what ended the verb.

    Args:
        report: of parity, or None.
        error: what ended the verb, or None.
        subject: what the verb did, for a report without parity.
        seconds: that it took.
    """
    name = subject if report is None else f"parity {report.name} {report.target} {report.precision}"
    suite = ET.Element("testsuite", name=_plain(name))
    cases = [] if report is None else _cases(report)
    class_name = "aigc" if report is None else f"aigc.{report.name}"
    for check, measured, reasons in cases:
        case = ET.SubElement(suite, "testcase", classname=_plain(class_name), name=_plain(check))
        if reasons:
            ET.SubElement(case, "failure", message=_plain("; ".join(reasons))).text = _plain(measured)
        else:
            ET.SubElement(case, "system-out").text = _plain(measured)
    if error is not None:
        case = ET.SubElement(suite, "testcase", classname=_plain(class_name), name=_plain(subject))
        entry = ET.SubElement(case, "error", type=type(error).__name__, message=_plain(error.message))
        entry.text = _plain(f"exit code {error.exit_code}\n{error.hint}")
    suite.set("tests", str(len(cases) + (error is not None)))
    suite.set("failures", str(sum(1 for _, _, reasons in cases if reasons)))
    suite.set("errors", str(int(error is not None)))
    suite.set("time", f"{seconds:.3f}")
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suite)


def _cases(report: ParityReport) -> list[tuple[str, str, tuple[str, ...]]]:
    """List (name, measurement, why it is missed) of every check."""
    cases = [(f"tensor {c.case} step {c.step} {c.output}", _errors(c), c.reasons) for c in report.tensors]
    if report.text is not None:
        cases.append(("tokens", report.text.measured, report.text.reasons))
    g = report.generation
    cases.append((f"generation {g.metric}", f"{g.value:.6g}", g.reasons))
    for p in report.paired:
        missed = () if p.passed else (f"{p.metric.value:.6g}, the limit is {p.limit:g}",)
        cases.append((f"paired {p.metric.name}", _measured(_paired(p), p.metric.data), missed))
    for q in report.quality:
        missed = () if q.passed else (f"{q.actual:.6g} against {q.reference:.6g}: {q.drop:.3%} worse",)
        cases.append((f"quality {q.metric}", _measured(f"{q.actual:.6g}", q.data), missed))
    if not report.tensors:
        cases.append(("tensors", "", ("no tensor was compared",)))
    return cases


_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped (section 2.2)."""


def _plain(text: str) -> str:
    return _NOT_XML.sub(lambda found: ascii(found[0])[1:-1], text)
