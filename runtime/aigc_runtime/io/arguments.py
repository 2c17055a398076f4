"""Values of a command line, as argparse reads them."""

from __future__ import annotations

import argparse
import os
import re

__all__ = ["path_argument", "text_argument"]

_SURROGATE = re.compile("[\ud800-\udfff]")


def path_argument(argument: str) -> str:
    """A path, never an empty one: `--trusted-key "$UNSET"` would mean the folder that the program runs in."""
    if not argument:
        raise argparse.ArgumentTypeError("a path is expected, and this one is empty")
    return argument


def text_argument(argument: str) -> str:
    """Text from the command line; bytes that the locale does not know (Python kept them apart) are read as UTF-8."""
    try:
        return os.fsencode(argument).decode("utf-8") if _SURROGATE.search(argument) else argument
    except UnicodeError as err:
        raise argparse.ArgumentTypeError(f"{argument!r} is not UTF-8: {err}") from err
