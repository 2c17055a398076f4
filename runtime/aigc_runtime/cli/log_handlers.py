"""Where the log of a run is written: a file that loses nothing without saying so, and standard error."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from aigc_runtime.io.output_file import is_stream, open_stream, replaced_file
from aigc_runtime.io.printable import printable
from aigc_runtime.io.publish_checks import output_error

__all__ = ["PACKAGES", "LogFile", "StandardError", "handled"]

_LOG = logging.getLogger(__name__)

PACKAGES = ("aigc_runtime", "aigc_models", "aigc_calibration", "aigc_export")
"""Each has a logger of its name."""


class _Lines(logging.Formatter):
    """One line for a record; what goes on is indented, so that no text can look like another record."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        first, *more = record.getMessage().split("\n")
        if record.exc_info:
            more += self.formatException(record.exc_info).split("\n")
        head = f"{seconds}.{int(record.msecs):03}Z {record.levelname:<7} {record.name}: {printable(first)}"
        return "\n".join([head, *(f"    {printable(line)}" for line in more)])


class LogFile(logging.Handler):
    """Writes records to a file, which is made or emptied; its first failure ends the writing, not the run.

    Attributes:
        failure: why something was lost; None if nothing was.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.failure: OSError | None = None
        self._file = _open(path.absolute())
        self.setFormatter(_Lines())
        # PyTorch hands its own details to whatever handler there is, and expects that it drops them.
        self.addFilter(lambda record: _is_ours(record) or record.levelno >= logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or drop it where one before it was lost."""
        if self.failure is not None:
            return
        try:
            self._file.write((self.format(record) + "\n").encode("utf-8", "backslashreplace"))
            self._file.flush()
        except OSError as err:
            self.failure = err

    def close(self) -> None:
        """Close the file."""
        super().close()
        with contextlib.suppress(OSError):  # what cannot be flushed was told of
            self._file.close()


def _open(path: Path) -> IO[bytes]:
    try:
        if is_stream(path):
            return open_stream(path)
        path, _ = replaced_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
    except OSError as err:
        raise output_error(path, err) from err


class StandardError(logging.Handler):
    """Shows records on standard error, whatever stands there by then: a spinner puts a stream of its own there.

    Args:
        verbose: show ours. Those of other libraries are shown in any case, as they are where there is no log.
    """

    def __init__(self, verbose: bool) -> None:
        super().__init__()
        self.setFormatter(_Lines())
        self.addFilter(lambda record: _is_shown(record, verbose))

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        sys.stderr.write(self.format(record) + "\n")


def _is_shown(record: logging.LogRecord, verbose: bool) -> bool:
    if _is_ours(record):
        return verbose and not getattr(record, "shown", False)
    return record.levelno >= logging.WARNING


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] in PACKAGES


@contextlib.contextmanager
def handled(handlers: Sequence[logging.Handler]) -> Iterator[None]:
    """Let handlers have every record of ours, and the warnings of others, while the block runs."""
    root, ours = logging.getLogger(), [logging.getLogger(name) for name in PACKAGES]
    levels = [logger.level for logger in ours]
    shown = warnings.showwarning

    def show(message: Any, category: type[Warning], filename: str, lineno: int, *more: Any, **named: Any) -> None:
        _LOG.warning("%s: %s (%s:%d)", category.__name__, message, filename, lineno, extra={"shown": True})
        shown(message, category, filename, lineno, *more, **named)

    for handler in handlers:
        root.addHandler(handler)
    for logger in ours:
        logger.setLevel(logging.DEBUG)
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown
        for logger, level in zip(ours, levels, strict=True):
            logger.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
