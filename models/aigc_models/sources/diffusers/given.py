"""Read a JSON that diffusers wrote field by field: what is not known here is refused by its name."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["even", "read_given", "require", "require_values", "square_side"]


def read_given(
    values: Mapping[str, Any], defaults: Mapping[str, Any], *, where: str, unused: Collection[str] = ()
) -> dict[str, Any]:
    """Take the fields that are read, those that are missing at their defaults.

    Args:
        values: the parsed JSON.
        defaults: of the fields that are read: those of diffusers' class.
        where: the file's name, for messages.
        unused: fields that diffusers passes over in this class, too.

    Raises:
        CheckpointError: a field that is neither, unless it is null, false or empty; names it and the nearest.
    """
    for name, value in values.items():
        if name in defaults or name in unused or name.startswith("_") or not value:
            continue
        near = difflib.get_close_matches(name, defaults, n=1)
        raise CheckpointError(
            f"{where}: the field {shown(name)} is {shown(value)}, and what it means is not known here",
            hint=(f"nearest known: {near[0]!r}; " if near else "") + "remove it if it changes nothing",
        )
    return {name: values.get(name, default) for name, default in defaults.items()}


def require(given: dict[str, Any], allowed: Mapping[str, tuple[object, ...]], *, where: str) -> None:
    """Take out fields that are no setting here: each must say what is done anyway.

    Args:
        given: what `read_given` gave; the fields of `allowed` are removed.
        allowed: field -> its supported values.
        where: the file's name, for messages.

    Raises:
        CheckpointError: another value; names the field and the supported ones.
    """
    for name, values in allowed.items():
        value = given.pop(name)
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values):
            raise CheckpointError(
                f"{where}: {name} is {shown(value)}, which is not supported",
                hint=f"supported: {', '.join(map(shown, values))}",
            )


def require_values(given: Mapping[str, Any], *, where: str, may_be_null: Collection[str] = ()) -> None:
    """Refuse fields that are null.

    Args:
        given: what `read_given` gave.
        where: the file's name, for messages.
        may_be_null: fields of which null is a value.

    Raises:
        CheckpointError: names the field.
    """
    for name, value in given.items():
        if value is None and name not in may_be_null:
            raise CheckpointError(f"{where}: {name} is null", hint="give it the value that the model was trained with")


def square_side(value: object, where: str) -> object:
    """Read a size that may be given as [height, width], where both are one.

    Raises:
        CheckpointError: they differ.
    """
    if isinstance(value, list) and len(value) == 2:
        if value[0] != value[1]:
            raise CheckpointError(
                f"{where}: sample_size is {shown(value)}, which is not supported", hint="supported: squares"
            )
        return value[0]
    return value


def even(name: str, value: object, where: str) -> object:
    """Read a number that may be given once per level, where all are one.

    Raises:
        CheckpointError: they differ.
    """
    if not isinstance(value, list):
        return value
    if not value or any(one != value[0] for one in value):
        raise CheckpointError(
            f"{where}: {name} is {shown(value)}, which is not supported", hint="supported: one number for all levels"
        )
    return value[0]
