"""`--report` and `--junit`: files for CI, written on every exit code."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aigc_export.cli.paths import WRITTEN_PATH, PathsCollideError
from aigc_runtime.cli.run_log import requested_path

if TYPE_CHECKING:
    from aigc_runtime.errors import AigcError
    from aigc_runtime.proof.verify import ParityReport

__all__ = ["Reports", "report_options", "report_usage"]


@dataclass(kw_only=True)
class Reports:
    """The content of the report files.

    Attributes:
        subject: what the verb does, for a report of an error.
        report: the JSON file, or None.
        junit: the JUnit XML file, or None.
        on_stdout: one of them goes to standard output, which then holds nothing else.
        parity: set by the verb, once there is one.
        started: when the verb began.
    """

    subject: str
    report: Path | None
    junit: Path | None
    on_stdout: bool = False
    parity: ParityReport | None = None
    started: float = field(default_factory=time.perf_counter)

    def write(self, error: AigcError | None) -> None:
        """Write both files; a failure of one does not stop the other.

        Args:
            error: what ended the verb, if it is not parity that was missed.

        Raises:
            OutputError: one of them cannot be written.
        """
        from aigc_export.parity.report import junit_xml, report_json
        from aigc_runtime.io.publish import atomic_write_bytes

        seconds = time.perf_counter() - self.started
        with contextlib.ExitStack() as both:  # which goes on after a failure, and raises in the end
            if self.junit is not None:
                data = junit_xml(self.parity, error, subject=self.subject, seconds=seconds)
                both.callback(atomic_write_bytes, self.junit, data)
            if self.report is not None:
                both.callback(atomic_write_bytes, self.report, report_json(self.parity, error))


def report_options(verb: str, subject: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the two options; the command gets them as `reports`, whose files are written in any case.

    Args:
        verb: its name.
        subject: the parameter that says what it is about.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(*arguments: Any, report: Path | None, junit: Path | None, **named: Any) -> Any:
            from aigc_runtime.errors import ConfigError, OutputError, ParityError
            from aigc_runtime.io.output_file import is_standard_output
            from aigc_runtime.io.report import check_outputs

            check_outputs(report, junit)
            on_stdout = any(path is not None and is_standard_output(path) for path in (report, junit))
            if on_stdout and named["as_json"]:
                raise ConfigError(
                    "--json and a report both write to standard output",
                    hint="write the report to a file",
                )
            reports = Reports(subject=f"{verb} {named[subject]}", report=report, junit=junit, on_stdout=on_stdout)
            try:
                code = function(*arguments, reports=reports, **named)
            except BaseException as err:
                missed = reports.parity is not None and isinstance(err, ParityError)
                _write_despite(reports, None if missed else err)
                raise
            try:
                reports.write(None)
            except OutputError as err:
                if not code:
                    raise
                _complain(err)  # the verdict stays
            return code

        for option in (
            click.option("--junit", is_eager=True, type=WRITTEN_PATH, help="Write a report as JUnit XML."),
            click.option("--report", is_eager=True, type=WRITTEN_PATH, help="Write a report as JSON."),
        ):
            command = option(command)
        return command

    return decorate


def report_usage(err: click.ClickException, arguments: Sequence[str]) -> None:
    """Write the reports that a command line asks for which is refused before its verb runs.

    Args:
        err: why it is refused. What stood behind that was not read, so that nobody has compared its paths.
        arguments: of the command line. A report that has the path of anything else in them is not written.
    """
    context: click.Context | None = getattr(err, "ctx", None)
    if context is None or not {"report", "junit"} <= {parameter.name for parameter in context.command.params}:
        return
    if isinstance(err, PathsCollideError):
        return
    from aigc_runtime.errors import InputError, OutputError
    from aigc_runtime.io.report import check_outputs

    report, junit = (requested_path(flag, arguments) for flag in ("--report", "--junit"))
    try:
        check_outputs(report, junit)
    except OutputError as lost:
        _complain(lost)
        return
    reports = Reports(subject=str(context.info_name), report=report, junit=junit)
    _write_despite(reports, InputError(err.format_message()))


def _write_despite(reports: Reports, err: BaseException | None) -> None:
    """Write the reports of a failure; an error in writing does not replace it."""
    from aigc_runtime.cli.entry import as_failure
    from aigc_runtime.errors import OutputError

    try:
        reports.write(None if err is None else as_failure(err))
    except OutputError as lost:
        _complain(lost)


def _complain(err: AigcError) -> None:
    from aigc_runtime.cli.entry import complain

    complain(err)
