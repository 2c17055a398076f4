"""One log of what a run of a command line did: `--verbose` shows it, `--log FILE` keeps it.

The library says what it does to the loggers of its packages, and prints nothing. Here they get somewhere to write:

| record | `--log FILE` | `--verbose`, on standard error |
| --- | --- | --- |
| the command line, versions, the end, the traceback of a failure | yes | yes |
| what stages did and decided (INFO), and details (DEBUG) | yes | but for what the verb prints anyway |
| a warning of Python or of another library | yes | as without it |

The file is written line by line as the run goes, so that it tells how far a run came that was killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from aigc_runtime._version import __version__
from aigc_runtime.cli.entry import as_failure, complain
from aigc_runtime.cli.log_handlers import LogFile, StandardError, handled
from aigc_runtime.errors import AigcError, ConfigError, InputError, OutputError
from aigc_runtime.io.output_file import is_standard_output, is_stream
from aigc_runtime.io.printable import shortened
from aigc_runtime.io.publish_checks import output_error
from aigc_runtime.io.report import check_outputs

__all__ = ["log_early_failure", "requested_path", "run_logged"]

OURS = ("aigc-runtime", "aigc-export")
"""Distributions whose requirements decide what a run does, and so their versions."""
VARIABLES = ("AIGC_TRUSTED_KEYS", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SOURCE_DATE_EPOCH", "TMPDIR")
"""Environment variables that decide it, too. None is a secret."""
_IN_LOG = "_aigc_in_log"
"""Mark of an exception that a log has."""

_LOG = logging.getLogger(__name__)


def run_logged(
    verb: Callable[[], int | None],
    *,
    program: str,
    arguments: Sequence[str],
    verbose: bool,
    path: Path | str | None,
    json_on_stdout: bool = False,
    as_error: Callable[[BaseException], AigcError] = as_failure,
) -> int:
    """Run a verb, and log it where that is requested.

    Args:
        verb: returns the exit code, or None for 0.
        program: its name.
        arguments: of the command line.
        verbose: whether the log is shown on standard error.
        path: the file that keeps it; None for none.
        json_on_stdout: standard output holds one JSON document and nothing else.
        as_error: what an exception is to the user.

    Raises:
        OutputError: the file cannot be written. Where that shows only after a verb that failed, it is told on
            standard error, and the verb's code is returned.
        ConfigError: the log and a JSON document would both go to standard output.
        InputError: another argument has the path of the log.
    """
    if path is None and not verbose:
        return verb() or 0
    if path is not None:
        _check(path, arguments, json_on_stdout)
    with contextlib.ExitStack() as stack:
        file = None if path is None else stack.enter_context(contextlib.closing(LogFile(Path(path))))
        stack.enter_context(handled([handler for handler in (file, StandardError(verbose)) if handler is not None]))
        started = time.perf_counter()
        _log_start(program, arguments)
        try:
            code = verb() or 0
        except BaseException as err:
            error = as_error(err)
            # Where it came from is in the traceback; the message is on standard error without it.
            _LOG.error("%s", _told(error), extra={"shown": True})
            _LOG.debug("the traceback of that", exc_info=err)
            _log_end(error.exit_code, started)
            with contextlib.suppress(AttributeError):
                setattr(err, _IN_LOG, True)
            if file is not None and file.failure is not None:
                complain(output_error(Path(path or ""), file.failure))
            raise
        _log_end(code, started)
    if file is not None and file.failure is not None:
        lost = output_error(Path(path or ""), file.failure)
        if not code:
            raise lost
        complain(lost)  # the verdict stays
    return code


def log_early_failure(
    err: BaseException,
    *,
    program: str,
    arguments: Sequence[str],
    as_error: Callable[[BaseException], AigcError] = as_failure,
) -> None:
    """Write the log of a command line that failed before its verb ran, if it names one.

    Args:
        err: what it failed with. What stood behind a bad argument was not read, so that nobody has compared its paths:
            nothing is written to a path that any other argument names, or that is inside one.
        program: its name.
        arguments: of the command line.
        as_error: what an exception is to the user.
    """
    path = requested_path("--log", arguments)
    if path is None or getattr(err, _IN_LOG, False) or _is_inside_another(path, arguments):
        return

    def fail() -> int:
        raise err

    try:
        run_logged(fail, program=program, arguments=arguments, verbose=False, path=path, as_error=as_error)
    except BaseException as raised:  # noqa: BLE001 - the failure is told by who called this
        if raised is not err and isinstance(raised, OutputError):
            complain(raised)


def requested_path(flag: str, arguments: Sequence[str]) -> Path | None:
    """The path that a flag names, the last time that it stands there; None where another argument names it, too."""
    found = None
    for i, argument in enumerate(arguments):
        name, equals, _ = argument.partition("=")
        if name == flag and (equals or i + 1 < len(arguments)):
            found = (i, i) if equals else (i, i + 1)
    if found is None:
        return None
    given = arguments[found[1]].partition("=")[2] if found[0] == found[1] else arguments[found[1]]
    others = [a for i, a in enumerate(arguments) if i not in found]
    whole = os.path.realpath(given)
    if not given or any(os.path.realpath(part) == whole for a in others for part in _parts(a)):
        return None
    return Path(given)


def _parts(argument: str) -> Iterator[str]:
    """What of an argument may be a path: all of it, and what is behind each `=`."""
    while argument:
        yield argument
        argument = argument.partition("=")[2]


def _is_inside_another(path: Path, arguments: Sequence[str]) -> bool:
    parents = Path(os.path.realpath(path)).parents
    return any(Path(os.path.realpath(part)) in parents for a in arguments for part in _parts(a))


def _check(path: Path | str, arguments: Sequence[str], json_on_stdout: bool) -> None:
    check_outputs(path)
    if json_on_stdout and is_standard_output(path):
        raise ConfigError("--json and the log both write to standard output", hint="write the log to a file")
    whole = os.path.realpath(path)
    named = [part for a in arguments for part in _parts(a) if os.path.realpath(part) == whole]
    if len(named) > 1 and not is_stream(Path(path)):
        raise InputError(
            f"--log {shortened(str(path))!r} is the path of another argument, too",
            hint="write the log to a file of its own",
        )


def _log_start(program: str, arguments: Sequence[str]) -> None:
    _LOG.info("%s", shlex.join([program, *arguments]))
    _LOG.info("in %s, at %s", _working_folder(), time.strftime("%Y-%m-%d %H:%M:%S %z"))
    _LOG.info("Python %s, %s, %d processors", platform.python_version(), platform.platform(), os.cpu_count() or 1)
    _LOG.info("%s", ", ".join(f"{name} {version}" for name, version in _versions().items()))
    for name in VARIABLES:
        if name in os.environ:
            _LOG.info("%s=%s", name, os.environ[name])


def _log_end(code: int, started: float) -> None:
    _LOG.info("exit code %d after %.1f s%s", code, time.perf_counter() - started, _peak_memory())


def _peak_memory() -> str:
    try:
        import resource
    except ImportError:  # not on Windows
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f", at most {peak * (1 if sys.platform == 'darwin' else 1024) / 1e6:.0f} MB of memory"


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except OSError as err:
        return f"a folder that is gone ({err.strerror})"


def _versions() -> dict[str, str]:
    """The versions of ours, of engines, and of what ours require, tools for development aside, as far as installed."""
    from aigc_runtime.backends.table import BACKENDS

    engines = [name for backend in BACKENDS.values() for names in backend.packages.values() for name in names]
    found = {OURS[0]: __version__, **_installed(["numpy", *engines])}
    for ours in OURS:
        with contextlib.suppress(metadata.PackageNotFoundError):  # as where the sources are on the path
            required = [r for r in metadata.requires(ours) or () if not re.search(r"extra == .dev\b", r)]
            found |= _installed([ours, *(re.split(r"[^\w.-]", r, maxsplit=1)[0] for r in required)])
    return found


def _installed(distributions: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _told(error: AigcError) -> str:
    return "\n".join(shortened(line) for line in (*error.message.split("\n"), *error.hint.split("\n")) if line)
