"""What a command writes: files, refused before the work where they cannot be made, and JSON on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aigc_runtime.io.output_file import is_standard_output
from aigc_runtime.io.printable import printable
from aigc_runtime.io.publish_checks import check_file

__all__ = ["check_outputs", "emit_json", "say_written"]


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


def emit_json(schema: str, value: Mapping[str, Any]) -> None:
    """Print one JSON document on standard output.

    Args:
        schema: its form and the form's version, of the file of that name in docs/schemas.
        value: the document.
    """
    sys.stdout.write(json.dumps({"schema": schema, **value}, indent=2, allow_nan=False) + "\n")
