"""JSON without the surprises: no duplicate keys, no NaN, no infinity, no deep nesting, no giant numbers."""

from __future__ import annotations

import json
import math
from typing import Any

from aigc_runtime.errors import AigcError, BundleError

__all__ = ["MAX_DEPTH", "loads_strict"]

MAX_DEPTH = 32
MAX_INTEGER_DIGITS = 19


def loads_strict(data: bytes, *, what: str, error: type[AigcError] = BundleError) -> Any:
    """Parse JSON strictly.

    Args:
        data: UTF-8 bytes.
        what: what the bytes are, for the message.
        error: the type to raise.

    Returns:
        The parsed value.

    Raises:
        AigcError: of type `error`: not UTF-8, not JSON, a duplicate key, a number that is not finite or has more than
            19 digits, nesting deeper than 32.
    """
    try:
        text = data.decode("utf-8")
        _check_depth(text)
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_bounded_int,
            parse_float=_finite_float,
        )
    except (UnicodeDecodeError, ValueError, RecursionError) as err:
        raise error(f"{what} is not valid: {err}", hint="the file is damaged or was edited: get it again") from err


def _check_depth(text: str) -> None:
    depth, in_string, escaped = 0, False, False
    for char in text:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH}")
        elif char in "]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"duplicate key {key!r}")
        result[key] = value
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _bounded_int(text: str) -> int:
    if len(text.lstrip("-")) > MAX_INTEGER_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value
