"""Files that a verb is asked to write: refused before the work, and told of where folders are made for them."""

from __future__ import annotations

import sys
from pathlib import Path

from aigc_runtime.output_file import is_standard_output
from aigc_runtime.printable import printable
from aigc_runtime.publish_checks import check_file

__all__ = ["check_outputs", "say_written"]


def check_outputs(*paths: Path | str | None) -> None:
    """Refuse what cannot be written, before any work; a folder that will be made is told of.

    Raises:
        OutputError: names the path.
    """
    for path in paths:
        made = () if path is None else check_file(path)
        if made:
            sys.stderr.write(f"note: the folder {str(made[-1])!r} is not there and will be made\n")


def say_written(path: Path | str, line: str) -> None:
    """Say what was written, on standard error where the file itself went to standard output."""
    (sys.stderr if is_standard_output(path) else sys.stdout).write(printable(line) + "\n")
