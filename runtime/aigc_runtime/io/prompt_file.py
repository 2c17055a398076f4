"""A prompt from a file or from standard input: the very characters that are there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

from aigc_runtime.errors import InputError
from aigc_runtime.io.strict_json import wide_encoding

__all__ = ["MAX_PROMPT_BYTES", "read_prompt", "read_text"]

MAX_PROMPT_BYTES = 1 << 24
"""16 MiB: more than any context takes, and what is read of a file that never ends."""


def read_prompt(source: str) -> str:
    """Read a prompt: UTF-8, and nothing in it is changed.

    Line ends stay as they are (CR LF, too), and so does a byte order mark: to a model over bytes they are bytes.

    Args:
        source: a path, which may be a pipe; `-` for standard input.

    Raises:
        InputError: it cannot be read, is not UTF-8, or is longer than `MAX_PROMPT_BYTES`.
    """
    return read_text(source, what="the prompt")


def read_text(source: str, *, what: str) -> str:
    """Read what a model is given, as `read_prompt` does.

    Args:
        source: a path, which may be a pipe; `-` for standard input.
        what: it is, for messages.

    Raises:
        InputError: see `read_prompt`.
    """
    try:
        if source == "-":
            data = _bounded(sys.stdin.buffer)
        else:
            with Path(source).open("rb") as file:
                data = _bounded(file)
    except OSError as err:
        raise InputError(f"cannot read {what} from {source!r}: {err.strerror}", hint="check the path") from err
    if len(data) > MAX_PROMPT_BYTES:
        raise InputError(f"{what} in {source!r} is longer than {MAX_PROMPT_BYTES:,} bytes", hint="give a shorter one")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as err:
        encoding = wide_encoding(data)
        found = f"it is in {encoding}" if encoding else f"byte 0x{data[err.start]:02x} at {err.start:,}"
        raise InputError(f"{what} in {source!r} is not UTF-8: {found}", hint="save it as UTF-8") from err


def _bounded(file: BinaryIO) -> bytes:
    return file.read(MAX_PROMPT_BYTES + 1)
