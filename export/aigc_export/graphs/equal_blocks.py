"""Find the blocks of a module that are equal but for the numbers of their weights."""

from __future__ import annotations

import enum
import types
from collections import Counter
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MIN_BLOCKS", "find_equal_blocks", "is_plain"]

MIN_BLOCKS = 4
"""Equal blocks from which on it is worth to trace one of them alone."""


def find_equal_blocks(module: nn.Module) -> dict[str, tuple[nn.Module, int]]:
    """Find the blocks of a module that occur several times: path -> (block, number of its structure).

    They are elements of a `ModuleList` or a `Sequential`, and at least `MIN_BLOCKS` of one list are equal. A block that
    holds anything whose equality cannot be told, shares a weight with another module, or has hooks is left out, as are
    blocks inside of blocks.
    """
    from torch import nn

    owners = Counter(
        id(tensor)
        for found in (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
        for _, tensor in found
    )
    structures: list[Any] = []
    blocks: dict[str, tuple[nn.Module, int]] = {}
    for path, parent in module.named_modules():
        if not isinstance(parent, (nn.ModuleList, nn.Sequential)) or path.startswith(tuple(f"{b}." for b in blocks)):
            continue
        found: dict[str, tuple[nn.Module, int]] = {}
        for name, block in parent.named_children():
            structure = None if _shares(block, owners) else _structure(block)
            if structure is None:
                continue
            if structure not in structures:
                structures.append(structure)
            found[f"{path}.{name}" if path else name] = block, structures.index(structure)
        counts = Counter(number for _, number in found.values())
        blocks |= {name: (block, number) for name, (block, number) in found.items() if counts[number] >= MIN_BLOCKS}
    return blocks


def _shares(block: nn.Module, owners: Mapping[int, int]) -> bool:
    return any(owners[id(tensor)] > 1 for tensor in (*block.parameters(), *block.buffers()))


def _structure(module: nn.Module) -> tuple[Any, ...] | None:
    """All that a module is but the numbers of its weights; None if it holds what cannot be compared."""
    held: list[Any] = []
    for name, value in sorted(vars(module).items()):
        if name in {"_parameters", "_buffers", "_modules"}:
            continue
        if isinstance(value, dict) and name.endswith("_hooks") and value:
            return None
        if not is_plain(value):
            return None
        held.append((name, value))
    weights = [
        (name, None if tensor is None else (tuple(tensor.shape), tensor.dtype, tensor.device.type))
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
    ]
    inner = [(name, _structure(child)) for name, child in module.named_children()]
    if any(structure is None for _, structure in inner):
        return None
    return type(module), held, weights, inner


def is_plain(value: object) -> bool:
    """Check that `==` tells whether two such values are the same."""
    import torch

    if isinstance(value, (tuple, list, set, frozenset)):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, (*value.keys(), *value.values())))
    if is_dataclass(value) and not isinstance(value, type):
        return bool(value.__dataclass_params__.frozen) and is_plain(vars(value))  # type: ignore[attr-defined]
    plain = (str, bytes, bool, int, float, enum.Enum, type, torch.dtype, torch.device, types.NoneType)
    return isinstance(value, (*plain, types.FunctionType, types.BuiltinFunctionType))
