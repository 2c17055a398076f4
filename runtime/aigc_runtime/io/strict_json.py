"""JSON without the surprises: no duplicate keys, no NaN, no infinity, no deep nesting, no giant numbers."""

from __future__ import annotations

import codecs
import json
import math
import re
from typing import Any

from aigc_runtime.errors import AigcError, BundleError

__all__ = ["MAX_DEPTH", "loads_strict", "refuse_half_characters", "wide_encoding"]

MAX_DEPTH = 32
MAX_INTEGER_DIGITS = 19
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


_WIDE = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
"""Byte order marks of encodings that are not read, the longer first: one begins with another."""
_WIDE_ZEROS = {
    "x000": "UTF-32",
    "000x": "UTF-32",
    "x0x0": "UTF-16",
    "0x0x": "UTF-16",
}
"""Which of the first four bytes are zero, where the first characters are ASCII."""


def loads_strict(data: bytes, *, what: str, error: type[AigcError] = BundleError, written_by_hand: bool = False) -> Any:
    """Parse JSON strictly.

    Args:
        data: UTF-8 bytes.
        what: what the bytes are, for the message.
        error: the type to raise.
        written_by_hand: a file that users write: it may begin with the byte order mark that Windows tools put there.

    Returns:
        The parsed value.

    Raises:
        AigcError: of type `error`: not UTF-8, not JSON, a duplicate key, a number that is not finite or has more than
            19 digits, nesting deeper than 32, half of a surrogate pair.
    """
    try:
        if encoding := wide_encoding(data):
            raise ValueError(f"it is in {encoding}")
        text = data.removeprefix(codecs.BOM_UTF8 if written_by_hand else b"").decode("utf-8")
        _check_depth(text)
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_bounded_int,
            parse_float=_finite_float,
        )
        refuse_half_characters(text, value)
        return value
    except (UnicodeDecodeError, ValueError, RecursionError) as err:
        hint = "save it as JSON in UTF-8" if written_by_hand else "the file is damaged or was edited: get it again"
        raise error(f"{what} is not valid: {err}", hint=hint) from err


def refuse_half_characters(text: str, value: Any) -> None:
    """Refuse half of a surrogate pair, which is no character: it could be neither printed nor written.

    Args:
        text: of the JSON document, which has them only where it escapes them.
        value: what it was parsed to.

    Raises:
        ValueError: there is one.
    """
    if _ESCAPED_SURROGATE.search(text):
        _refuse_half_characters(value)


def _refuse_half_characters(value: Any) -> None:
    if isinstance(value, str) and any(0xD800 <= ord(char) < 0xE000 for char in value):
        raise ValueError(f"half of a surrogate pair in {value!a:.200}")
    if isinstance(value, dict):
        value = [*value, *value.values()]
    for part in value if isinstance(value, list) else ():
        _refuse_half_characters(part)


def wide_encoding(data: bytes) -> str:
    """`UTF-16` or `UTF-32`, where a text begins with its byte order mark or with an ASCII character in it; else ``.

    >>> wide_encoding('{"a": 1}'.encode("utf-16"))
    'UTF-16'
    >>> wide_encoding(b'{"a": 1}')
    ''
    """
    for mark, name in _WIDE:
        if data.startswith(mark):
            return name
    return _WIDE_ZEROS.get("".join("x0"[byte == 0] for byte in data[:4]), "")


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
