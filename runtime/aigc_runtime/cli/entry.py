"""What both command lines do around their verbs: signals, standard streams, and the exit code of every failure.

The verdict decides the exit code, whatever becomes of the output. Only a success whose result could not be written is
no success; a reader that went away (`| head`) had what it wanted.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from aigc_runtime.io.printable import printable, shortened

# Whatever else this needs is imported once signals are handled.
from aigc_runtime.system.interrupts import handled_signals, interrupt_code, interrupted_by, was_interrupted

if TYPE_CHECKING:
    from aigc_runtime.errors import AigcError, OutputError

__all__ = [
    "LOG_HELP",
    "VERBOSE_HELP",
    "as_failure",
    "complain",
    "end_program",
    "error_lines",
    "failure_code",
    "run_program",
]

VERBOSE_HELP = "show on standard error what is done and decided, and why"
LOG_HELP = "write that to a file, with versions and the traceback of a failure"

_UNUSABLE = (errno.ENAMETOOLONG, errno.EACCES, errno.ELOOP, errno.ENOTDIR)
"""What the system says of a path that it will not even look at."""

_NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)


def run_program(run: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run a command line in a process of its own.

    Args:
        run: takes the arguments and returns the exit code.
        arguments: those after the program's name.

    Returns:
        The exit code.
    """
    code = 1
    try:
        with handled_signals():
            from aigc_runtime.system.streams import guarded_streams

            with guarded_streams() as out:
                code = run(arguments)
                out.flush()
                if code == 0 and out.failure is not None and out.failure.errno != errno.EPIPE:
                    code = failure_code(_lost(out.failure))
    except KeyboardInterrupt as err:  # between the verb and here
        code = interrupt_code(err)
    return code


def end_program(code: int) -> NoReturn:
    """End the process with an exit code."""
    if was_interrupted():
        # All that this product holds has been cleaned up. Libraries that were broken off while they started threads of
        # their own may wait for these for ever.
        os._exit(code)
    sys.exit(code)


def _lost(failure: OSError) -> OutputError:
    from aigc_runtime.errors import OutputError

    return OutputError(
        f"cannot write to standard output: {failure.strerror or failure}",
        hint="the result was lost; what the command wrote to files is there",
    )


def failure_code(
    err: BaseException,
    *,
    tell: Callable[[AigcError], None] | None = None,
    program: str = "",
    arguments: Sequence[str] = (),
) -> int:
    """Tell what went wrong, and return the exit code.

    Args:
        err: what a verb raised. With AIGC_DEBUG in the environment, its traceback is shown, too.
        tell: shows a message and its hint; None takes `complain`.
        program: the name of the command line that failed.
        arguments: of that command line. Where they name a log that has not been begun, it is written now.
    """
    if os.environ.get("AIGC_DEBUG"):
        import traceback

        traceback.print_exception(err, file=sys.stderr)
    failure = as_failure(err)
    if interrupted_by(err) and sys.stderr.isatty():
        sys.stderr.write("\n")  # after the ^C that a terminal shows
    (complain if tell is None else tell)(failure)
    if any(argument.startswith("--log") for argument in arguments):
        from aigc_runtime.cli.run_log import log_early_failure

        log_early_failure(err, program=program, arguments=arguments)
    return failure.exit_code


def as_failure(err: BaseException) -> AigcError:
    """What an exception is to the user: one of ours as it is, all others as a message with an exit code."""
    from aigc_runtime.errors import AigcError, CancelledError, InputError, OutputError

    if interrupted_by(err):
        found: AigcError = CancelledError(
            "interrupted" + "".join(f"; {note}" for note in getattr(err, "__notes__", ()))
        )
        found.exit_code = interrupt_code(err)
        return found
    if isinstance(err, AigcError):
        return err
    if isinstance(err, MemoryError):
        return InputError(f"not enough memory: {err}", hint="ask for less at once, or use a machine with more memory")
    if isinstance(err, OSError) and err.errno in _NO_SPACE:
        where = f" {err.filename!r}" if err.filename else ""
        return OutputError(
            f"cannot write{where}: {err.strerror}",
            hint="free some space; temporary files go where the environment variable TMPDIR says",
        )
    if isinstance(err, OSError) and err.errno in _UNUSABLE and err.filename:
        return InputError(f"cannot use {err.filename!r}: {err.strerror}", hint="check the path and its permissions")
    return AigcError(
        f"internal error: {type(err).__name__}: {err}",
        hint="set AIGC_DEBUG=1 or give --log FILE for the traceback, and please report it",
    )


def complain(err: AigcError) -> None:
    """Print an error and its hint on standard error."""
    for line in error_lines(err):
        sys.stderr.write(line + "\n")


def error_lines(err: AigcError) -> list[str]:
    """An error and its hint; what they repeat of a file or of the user's words is shown escaped."""
    first, *more = (printable(shortened(line)) for line in (*err.message.split("\n"), *err.hint.split("\n")))
    return [f"error: {first}", *(f"  {line}" for line in more if line)]
