"""Keep the measurements of a search on disk, so that a search that was stopped goes on where it was.

A file of JSON lines, one measurement each, only ever appended to. Keys hold the digests of the graphs and the samples,
and the engine and the machine that measured, so that a journal may be used for any model: what does not belong is never
asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aigc_calibration.errors import CalibrationError
from aigc_runtime.errors import OutputError
from aigc_runtime.io.strict_json import loads_strict
from aigc_runtime.io.user_file import read_file
from aigc_runtime.system.processor import processor_name

__all__ = ["JOURNAL_FILE", "Journal", "measuring_environment"]

JOURNAL_FILE = "journal.jsonl"
JOURNAL_VERSION = 1
MAX_JOURNAL_BYTES = 2**28


def measuring_environment() -> str:
    """Describe engine and machine: other versions have other kernels, other processors other times and roundings."""
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}, {processor_name()}, {os.cpu_count()} cores"


class Journal:
    """Measurements by key.

    Args:
        path: of the file; None keeps them in memory only.
        environment: what measured, such as `measuring_environment()`; measurements of another one are not found.

    Raises:
        CalibrationError: the file is not a journal, or has another version.
        OutputError: it cannot be read or written.
    """

    def __init__(self, path: Path | None = None, *, environment: str = "") -> None:
        self.path, self.environment = path, environment
        self.values: dict[str, Any] = {}
        self.reused = 0
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held = read_file(path, limit=MAX_JOURNAL_BYTES, error=CalibrationError) if path.exists() else b""
            lines = held.split(b"\n") if held else []
            # A process that was killed may have left half a line; what was whole before it counts.
            whole = [line for line in lines[:-1] if line]
            for number, line in enumerate(whole):
                self._read(line, number)
            text = b"".join(line + b"\n" for line in whole) or json.dumps({"version": JOURNAL_VERSION}).encode() + b"\n"
            if not lines or lines[-1] or not whole:
                path.write_bytes(text)
        except OSError as err:
            raise OutputError(
                f"cannot use {str(path)!r} as a search journal: {err.strerror or err}", hint="choose another folder"
            ) from err

    def _read(self, line: bytes, number: int) -> None:
        hint = "delete it to search from the beginning"
        entry = loads_strict(line, what=f"line {number + 1} of {str(self.path)!r}", error=CalibrationError)
        if number == 0:
            if entry != {"version": JOURNAL_VERSION}:
                raise CalibrationError(
                    f"{str(self.path)!r} is not a search journal of version {JOURNAL_VERSION}", hint=hint
                )
            return
        if not isinstance(entry, dict) or entry.keys() != {"key", "value"} or not isinstance(entry["key"], str):
            raise CalibrationError(f"line {number + 1} of {str(self.path)!r} is not a measurement", hint=hint)
        self.values[entry["key"]] = entry["value"]

    def get(self, key: str) -> Any:
        """Return the value of a key, or None."""
        value = self.values.get(self._full(key))
        self.reused += value is not None
        return value

    def put(self, key: str, value: Any) -> None:
        """Add a value (JSON), on disk before this returns.

        Raises:
            OutputError: it cannot be written.
        """
        key = self._full(key)
        self.values[key] = value
        if self.path is None:
            return
        try:
            with self.path.open("ab") as file:
                file.write(json.dumps({"key": key, "value": value}, allow_nan=False).encode() + b"\n")
        except OSError as err:
            raise OutputError(
                f"cannot write to {str(self.path)!r}: {err.strerror or err}", hint="free some space and run again"
            ) from err

    def _full(self, key: str) -> str:
        return f"{self.environment} | {key}" if self.environment else key

    def remember(self, key: str, measure: Callable[[], Any]) -> Any:
        """Return the value of a key; measure it only if it is not there."""
        value = self.get(key)
        if value is None:
            value = measure()
            self.put(key, value)
        return value
