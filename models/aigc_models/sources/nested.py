"""Nested values as flat lists of named tensors, and back: what a module takes and gives."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aigc_runtime.errors import ConfigError

__all__ = ["Slot", "check_names", "flatten", "named_leaves", "rebuild"]

MAX_DEPTH = 16
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Slot:
    """The place of a tensor in a nested value: its position in the flat list."""

    index: int


def flatten(value: Any, *, name: str, what: str) -> tuple[list[tuple[str, Tensor]], Any]:
    """Take a nested value apart.

    Mappings and dataclasses add `_key` to a name, lists and tuples `_0`, `_1` and so on. Everything that is no tensor
    stays in the tree as it is.

    Args:
        value: tensors and arrays in mappings, sequences and dataclasses, and plain values.
        name: of the whole; the name of a tensor that is the whole.
        what: `input` or `output`, for messages.

    Returns:
        The tensors by name, in their order, and the tree with a `Slot` in the place of each.

    Raises:
        ConfigError: nested more than 16 deep, or a key that is no identifier.
    """
    leaves: list[tuple[str, Tensor]] = []

    def walk(value: Any, name: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ConfigError(f"{what} {name!r} is nested more than {MAX_DEPTH} deep", hint="flatten it")
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(value, Tensor):
            leaves.append((name, value))
            return Slot(len(leaves) - 1)
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str) or not _WORD.fullmatch(f"_{key}"):
                    raise ConfigError(
                        f"{what} {name!r} has the key {key!r}", hint="keys must be letters, digits and '_'"
                    )
            return {key: walk(inner, _joined(name, key), depth + 1) for key, inner in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(
                *(walk(v, _joined(name, k), depth + 1) for k, v in zip(value._fields, value, strict=True))
            )
        if isinstance(value, (list, tuple)):
            return type(value)(walk(inner, _joined(name, str(i)), depth + 1) for i, inner in enumerate(value))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return {key: walk(inner, _joined(name, key), depth + 1) for key, inner in fields.items()}
        return value

    return leaves, walk(value, name, 0)


def _joined(name: str, key: str) -> str:
    return f"{name}_{key}" if name else key


def rebuild(tree: Any, tensors: Sequence[Any]) -> Any:
    """Put tensors into the slots of a tree."""
    if isinstance(tree, Slot):
        return tensors[tree.index]
    if isinstance(tree, dict):
        return {key: rebuild(inner, tensors) for key, inner in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(rebuild(inner, tensors) for inner in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(rebuild(inner, tensors) for inner in tree)
    return tree


def named_leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a tree that are no tensors, by name; None is left out."""
    if isinstance(tree, dict):
        for key, inner in tree.items():
            yield from named_leaves(inner, _joined(name, str(key)))
    elif isinstance(tree, (list, tuple)):
        for i, inner in enumerate(tree):
            yield from named_leaves(inner, _joined(name, str(i)))
    elif tree is not None and not isinstance(tree, Slot):
        yield name, tree


def check_names(names: Sequence[str], *, what: str) -> None:
    """Check that names are identifiers, and each is there once.

    Raises:
        ConfigError: names the first that is not.
    """
    for name in names:
        if not _WORD.fullmatch(name):
            raise ConfigError(f"{what} is called {name!r}", hint="a name is letters, digits and '_', no digit first")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"two {what}s are called {twice[0]!r}", hint="nested keys are joined by '_': rename one of them"
        )
