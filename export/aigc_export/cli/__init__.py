"""The `aigc-export` command, one verb per file.

Little is imported before signals are handled, so that Ctrl-C ends in the documented way from the first moment on.
Exit codes are documented in docs/cli.md and come from `aigc_runtime.errors`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from aigc_export.cli.process import prepare_process
from aigc_runtime.cli.entry import end_program, error_lines, failure_code, run_program

if TYPE_CHECKING:
    from aigc_runtime.errors import AigcError

__all__ = ["VERBS", "main", "run"]

PROGRAM = "aigc-export"

VERBS = {
    "models": ("aigc_export.cli.models:models", "List the models and the quality of their checkpoints."),
    "train": ("aigc_export.cli.train:train", "Train a model and write a checkpoint."),
    "calibrate": ("aigc_export.cli.calibrate:calibrate", "Keep the ranges that samples show, for later exports."),
    "sensitivity": ("aigc_export.cli.sensitivity:sensitivity", "Say what low precision costs and saves at every site."),
    "export": ("aigc_export.cli.export:export", "Take a model from PyTorch to a verified bundle."),
    "keygen": ("aigc_export.cli.keygen:keygen", "Make a pair of keys for signing bundles."),
    "sign": ("aigc_export.cli.sign:sign", "Sign a bundle."),
    "verify": ("aigc_export.cli.verify:verify", "Compare a bundle with PyTorch again."),
    "generate": ("aigc_export.cli.generate:generate", "Generate text or images from a bundle."),
    "chat": ("aigc_export.cli.generate:chat", "Talk with the language model of a bundle."),
    "bench": ("aigc_export.cli.bench:bench", "Time a bundle against PyTorch."),
    "compare": ("aigc_export.cli.compare:compare", "Put two bundles of one model side by side."),
    "inspect": ("aigc_export.cli.inspect:inspect", "Show what a model or a bundle is, before any work."),
    "doctor": ("aigc_export.cli.doctor:doctor", "Say what this machine can build and run."),
    "check": ("aigc_export.cli.check:check", "Say whether a bundle runs on a device."),
    "demo": ("aigc_export.cli.demo:demo", "Export, verify and run the shipped models."),
}
"""verb -> (where it is, one line of help)."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the documented code."""
    prepare_process()
    end_program(run_program(run, sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code.

    Every failure is one message on standard error: what happened, and what to do next.
    """
    try:
        import click

        from aigc_export.cli.group import cli

        try:
            result = cli.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        except click.ClickException as err:
            from aigc_export.cli.log_options import log_usage
            from aigc_export.cli.report_options import report_usage
            from aigc_runtime.io.printable import printable, shortened

            message = "\n".join(printable(shortened(line)) for line in err.format_message().split("\n"))
            click.UsageError(message, getattr(err, "ctx", None)).show(sys.stderr)
            report_usage(err, arguments)
            log_usage(err, arguments)
            return 2
        except click.exceptions.Abort as err:
            raise (err.__cause__ or KeyboardInterrupt) from err
    except (Exception, KeyboardInterrupt) as err:  # noqa: BLE001 - whatever it is, it ends as a message and a code
        return failure_code(err, tell=_complain, program=PROGRAM, arguments=arguments)
    return result if isinstance(result, int) else 0


def _complain(err: AigcError) -> None:
    import click

    first, *more = error_lines(err)
    click.echo(first.replace("error:", click.style("error:", fg="red", bold=True), 1), file=sys.stderr)
    for line in more:
        click.echo(line, file=sys.stderr)
