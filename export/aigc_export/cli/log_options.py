"""`--verbose` and `--log`, which every verb takes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aigc_export.cli import PROGRAM
from aigc_export.cli.paths import WRITTEN_PATH, PathsCollideError
from aigc_runtime.cli.entry import LOG_HELP, VERBOSE_HELP, as_failure

if TYPE_CHECKING:
    from aigc_runtime.errors import AigcError

__all__ = ["ARGUMENTS", "log_usage", "with_log"]

ARGUMENTS = f"{__name__}.arguments"
"""Where click's context keeps what was typed."""


def with_log(command: click.Command) -> click.Command:
    """A verb that takes the two options, too.

    Args:
        command: the verb. One that hands all its arguments on is left as it is: they are handed on as well.
    """
    if command.context_settings.get("ignore_unknown_options") or command.callback is None:
        return command
    verb = command.callback

    @functools.wraps(verb)
    def logged(*arguments: Any, log_verbose: bool, log_path: Path | None, **named: Any) -> Any:
        if log_path is None and not log_verbose:
            return verb(*arguments, **named)
        from aigc_runtime.cli.run_log import run_logged

        return run_logged(
            lambda: verb(*arguments, **named),
            program=PROGRAM,
            arguments=click.get_current_context().meta[ARGUMENTS],
            verbose=log_verbose,
            path=log_path,
            json_on_stdout=bool(named.get("as_json")),
            as_error=_as_error,
        )

    found = copy.copy(command)
    found.callback = logged
    found.params = [
        *command.params,
        click.Option(["--verbose", "log_verbose"], is_flag=True, help=f"{VERBOSE_HELP.capitalize()}."),
        click.Option(["--log", "log_path"], type=WRITTEN_PATH, help=f"{LOG_HELP.capitalize()}."),
    ]
    return found


def log_usage(err: click.ClickException, arguments: Sequence[str]) -> None:
    """Write the log that a command line names which is refused before its verb runs.

    Args:
        err: why it is refused.
        arguments: of the command line.
    """
    if isinstance(err, PathsCollideError) or not any(argument.startswith("--log") for argument in arguments):
        return
    from aigc_runtime.cli.run_log import log_early_failure

    log_early_failure(err, program=PROGRAM, arguments=arguments, as_error=_as_error)


def _as_error(err: BaseException) -> AigcError:
    if isinstance(err, click.ClickException):
        from aigc_runtime.errors import InputError

        return InputError(err.format_message())
    return as_failure(err)
