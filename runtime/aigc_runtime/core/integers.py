"""Whole numbers that callers give: Python's and numpy's alike, and nothing that only looks like one."""

from __future__ import annotations

import operator

import numpy as np

__all__ = ["as_integer"]


def as_integer(value: object) -> int | None:
    """The Python integer that a value is, or None: booleans and whole floats are none.

    >>> as_integer(np.uint8(5)), as_integer(5.0), as_integer(True)
    (5, None, None)
    """
    if isinstance(value, (bool, np.bool_, np.ndarray)):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
