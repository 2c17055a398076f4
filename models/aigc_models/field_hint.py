"""Say which field of a configuration was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["field_hint"]


def field_hint(name: str, known: Iterable[str]) -> str:
    """Name the nearest of the known fields, or list all where none is near.

    >>> field_hint("d_modl", ["d_model", "n_heads"])
    "did you mean 'd_model'?"
    >>> field_hint("x", ["d_model", "n_heads"])
    'valid: d_model, n_heads'
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"valid: {', '.join(names)}"
