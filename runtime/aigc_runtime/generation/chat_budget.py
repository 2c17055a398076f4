"""What a chat template may use while it renders: time, and characters in all that it makes."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

__all__ = ["MAX_RENDER_SECONDS", "MAX_SPENT", "MAX_VALUE", "Budget", "ExceededError", "deep_size", "size"]

MAX_RENDER_SECONDS = 5.0
MAX_VALUE = 2**24
"""Characters of one value, and of the whole text: more than any model reads."""
MAX_SPENT = 2**27
"""Characters of all values together."""
MAX_BITS = 4096
"""Of a whole number."""
_NODE = 16
"""What a list or an object costs beside what it holds: it takes time to walk over."""


class ExceededError(Exception):
    """A template went over its budget."""


class Budget:
    """The budget of one rendering.

    Args:
        now: the time that the template is told; None for the machine's.

    Attributes:
        exceeded: what was exceeded, in words; empty for nothing.
    """

    def __init__(self, now: datetime.datetime | None) -> None:
        self.now = now
        self.exceeded = ""
        self._ends = time.monotonic() + MAX_RENDER_SECONDS
        self._spent = 0

    @staticmethod
    def active() -> Budget:
        """The budget of the rendering that goes on in this context."""
        return _ACTIVE.get()

    @staticmethod
    @contextlib.contextmanager
    def spending(now: datetime.datetime | None) -> Iterator[Budget]:
        """Render within a new budget."""
        budget = Budget(now)
        token = _ACTIVE.set(budget)
        try:
            yield budget
        finally:
            _ACTIVE.reset(token)

    def tick(self, cost: int) -> None:
        """A step of a loop, or a call; `cost` characters of text go with it.

        Raises:
            ExceededError: the time is over, or the budget is spent.
        """
        if time.monotonic() > self._ends:
            self._exceed(f"takes longer than {MAX_RENDER_SECONDS:g} seconds")
        self.spend(cost)

    def spend(self, characters: int) -> None:
        """Pay for a value.

        Raises:
            ExceededError: it is too large, or all together are.
        """
        self.check(characters)
        self._spent += characters
        if self._spent > MAX_SPENT:
            self._exceed(f"makes more than {MAX_SPENT:,} characters")

    def check(self, characters: int) -> None:
        """Refuse a value before it is made.

        Raises:
            ExceededError: it would be too large.
        """
        if characters > MAX_VALUE:
            self._exceed(f"makes a value of more than {MAX_VALUE:,} characters")

    def check_bits(self, bits: int) -> None:
        """Refuse a whole number before it is made.

        Raises:
            ExceededError: it would be too large.
        """
        if bits > MAX_BITS:
            self._exceed(f"makes a number of more than {MAX_BITS:,} bits")

    def _exceed(self, what: str) -> None:
        self.exceeded = what
        raise ExceededError(what)


_ACTIVE: ContextVar[Budget] = ContextVar("budget")


def size(value: Any) -> int:
    """Characters, or entries, of a value itself; 0 for what has none.

    >>> size("abc"), size([1, 2]), size(12)
    (3, 2, 0)
    """
    return len(value) if isinstance(value, (str, bytes, list, tuple, dict, set, frozenset)) else 0


def deep_size(value: Any) -> int:
    """About as many characters as a value is when it is written; stops at the first that are too many.

    >>> deep_size("abc")
    3
    >>> deep_size([["abc"], {"a": 1}]) > 4
    True
    """
    if isinstance(value, str):
        return len(value)
    total, waiting = 0, [value]
    while waiting and total <= MAX_VALUE:
        one = waiting.pop()
        if isinstance(one, (str, bytes)):
            total += len(one)
            continue
        total += _NODE
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset)):
            waiting += one
        elif type(one).__name__ == "Names":
            waiting.append(vars(one).get("_Namespace__attrs"))
    return total
