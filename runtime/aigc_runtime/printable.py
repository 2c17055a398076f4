"""Text as a terminal may have it: what is not printed, but does something, is shown as its escape."""

from __future__ import annotations

__all__ = ["printable"]


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
