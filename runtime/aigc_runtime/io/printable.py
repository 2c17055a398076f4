"""Text as a terminal may have it: what does something but is not seen is shown as its escape, what is long is cut."""

from __future__ import annotations

import math
import re

__all__ = ["printable", "shortened", "shown"]

_LONG_WORD = re.compile(r"[^\s/\\]{301,}")
"""Longer than any name of a file: a number or a list that nobody reads to its end."""
_LONG_VALUE = 400


def printable(text: str) -> str:
    r"""A text of one line with control characters, line ends and halves of characters escaped.

    >>> print(printable("café\x1b[2J\n\ud800"))
    café\x1b[2J\n\ud800
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )


def shortened(text: str) -> str:
    """A text whose overlong words are cut in their middle.

    >>> shortened("seed is " + "7" * 5000 + ", too large")
    'seed is 77777777777777777777...7777777777 (5,000 characters), too large'
    """
    return _LONG_WORD.sub(
        lambda word: f"{word[0][:20]}...{word[0][-10:].rstrip(',')} ({len(word[0]):,} characters)", text
    )


def shown(value: object) -> str:
    """A value that a caller gave, for a message: its `repr`, shortened.

    >>> shown("x"), shown(10**5000)
    ("'x'", 'an integer of 5,001 digits')
    """
    if isinstance(value, int) and abs(value) >= 10**300:
        # Python itself refuses to write more than 4,300 digits.
        return f"an integer of {_digits(abs(value)):,} digits"
    try:
        text = repr(value)
    except ValueError:
        text = f"a {type(value).__name__} of numbers with too many digits"
    text = shortened(text)
    return text if len(text) <= _LONG_VALUE else f"{text[: _LONG_VALUE - 50]}... ({len(text):,} characters)"


def _digits(value: int) -> int:
    digits = math.floor((value.bit_length() - 1) * math.log10(2)) + 1
    return digits + int(value >= 10**digits)
