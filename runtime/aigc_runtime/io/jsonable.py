"""Strict conversion between frozen dataclasses and plain JSON, driven by the dataclasses' own types."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from aigc_runtime.errors import AigcError, BundleError

__all__ = ["convert", "from_json", "to_json"]

T = TypeVar("T")
MAX_INTEGER = 2**53


def to_json(value: Any) -> Any:
    """A dataclass as plain JSON: tuples become lists, dataclasses become objects."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    return value


def from_json(cls: type[T], value: Any, *, where: str = "$", error: type[AigcError] = BundleError) -> T:
    """Build a dataclass from parsed JSON; every field must be there, no other may be, and types must match.

    Args:
        cls: a dataclass whose annotations are made of str, int, float, bool, None, Literal, tuple[X, ...],
            tuple[X, Y], dict[str, X], unions of these, Any and other dataclasses.
        value: the parsed JSON.
        where: JSON path of `value`, for messages.
        error: the type to raise.

    Raises:
        AigcError: of type `error`; names the path, what was found and what is expected.
    """
    if not isinstance(value, dict):
        raise error(f"{where} is {_kind(value)}, expected an object")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if unknown := [key for key in value if key not in names]:
        raise error(f"{where}.{_listed(unknown, 'is not a known field', 'are not known fields')}", hint=_known(names))
    if missing := [name for name in names if name not in value]:
        raise error(f"{where}.{_listed(missing, 'is missing', 'are missing')}", hint=_known(names))
    fields = {name: convert(hints[name], value[name], f"{where}.{name}", error) for name in names}
    try:
        return cls(**fields)
    except AigcError as err:
        raise error(f"{where}: {err.message}", hint=err.hint) from err


def _listed(names: list[str], one: str, many: str) -> str:
    """All of them at once: who mends a file should not hear of one at a time."""
    return f"{names[0]} {one}" if len(names) == 1 else f"{', '.join(names)} {many}"


def _known(names: list[str]) -> str:
    return f"known: {', '.join(names)}"


def convert(hint: Any, value: Any, where: str, error: type[AigcError]) -> Any:
    """One value by a type hint, as `from_json` takes it for a field.

    Args:
        hint: see `from_json`.
        value: the parsed JSON.
        where: JSON path of `value`, for messages.
        error: the type to raise.

    Raises:
        AigcError: of type `error`; names the path, what was found and what is expected.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, where, error)
    if origin is Literal:
        if value not in args or isinstance(value, bool):
            raise error(f"{where} is {value!r}", hint=f"valid: {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise error(f"{where} is {_kind(value)}, expected a list")
        if args[-1] is Ellipsis:
            return tuple(convert(args[0], v, f"{where}[{i}]", error) for i, v in enumerate(value))
        if len(value) != len(args):
            raise error(f"{where} has {len(value)} entries, expected {len(args)}")
        return tuple(convert(a, v, f"{where}[{i}]", error) for i, (a, v) in enumerate(zip(args, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise error(f"{where} is {_kind(value)}, expected an object")
        return {k: convert(args[1], v, f"{where}.{k}", error) for k, v in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value, where=where, error=error)
    return _convert_scalar(hint, value, where, error)


def _convert_union(options: tuple[Any, ...], value: Any, where: str, error: type[AigcError]) -> Any:
    if value is None and type(None) in options:
        return None
    rest = [o for o in options if o is not type(None)]
    if len(rest) == 1:
        return convert(rest[0], value, where, error)
    # Scalars only: the first alternative that takes the value wins.
    for option in rest:
        try:
            return convert(option, value, where, error)
        except AigcError:
            continue
    raise error(f"{where} is {_kind(value)}, expected one of {[getattr(o, '__name__', str(o)) for o in rest]}")


def _convert_scalar(hint: Any, value: Any, where: str, error: type[AigcError]) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    # `type(...) is` and not isinstance: True is an int to Python, but not to a reader of the file.
    if hint in (str, int, bool) and type(value) is hint:
        if hint is int and abs(value) > MAX_INTEGER:
            raise error(f"{where} is {value}, beyond 2**53")
        return value
    raise error(f"{where} is {_kind(value)}, expected {getattr(hint, '__name__', hint)}")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), f"the number {value}")
