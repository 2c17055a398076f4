"""Weights under another library's names, given under ours: one tensor at a time, cut where ours are parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from aigc_models.families.lm_config import LMConfig
from aigc_models.weights.stored_weights import WeightsReader
from aigc_runtime.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Change", "RenamedWeights", "Rule", "find_rule", "plus_one", "transposed"]

Change: TypeAlias = "Callable[[Tensor, LMConfig], Sequence[Tensor]]"
"""(their tensor, configuration) -> our tensors; also of tensors without numbers."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What becomes of a tensor.

    Attributes:
        theirs: its name; `*` stands for the number of a layer.
        ours: its names here, with `*` for the same number; empty: it is not a weight and is left out.
        change: what is done to its numbers; None: nothing.
    """

    theirs: str
    ours: tuple[str, ...]
    change: Change | None = None

    def match(self, name: str) -> str | None:
        """The layer's number where the rule is of this name, empty for one without a layer; else None."""
        pattern = re.escape(self.theirs).replace(r"\*", "([0-9]+)")
        found = re.fullmatch(pattern, name)
        if found is None:
            return None
        return found.group(1) if found.groups() else ""


def transposed(tensor: Tensor, _config: LMConfig) -> Sequence[Tensor]:
    """[inputs, outputs] -> [outputs, inputs]."""
    return (tensor.t(),)


def plus_one(tensor: Tensor, _config: LMConfig) -> Sequence[Tensor]:
    """The gain of a norm that is stored as its distance from one."""
    return (tensor.float() + 1.0,)


def find_rule(name: str, rules: Sequence[Rule], *, prefix: str) -> tuple[tuple[str, ...], Change | None]:
    """Find what becomes of a tensor: its names here, and what is done to its numbers.

    Args:
        name: of theirs.
        rules: of a family; the first that is of the name counts. A name without a rule stays as it is.
        prefix: taken off before the rules are asked.
    """
    bare = name.removeprefix(prefix)
    for rule in rules:
        layer = rule.match(bare)
        if layer is not None:
            return tuple(ours.replace("*", layer) for ours in rule.ours), rule.change
    return (bare,), None


class RenamedWeights:
    """Weights under our names.

    Args:
        stored: on the disk.
        rules: of a family; the first that is of a name counts. A name without a rule stays as it is.
        prefix: in front of most names, such as `model.`: it is taken off before the rules are asked.
        config: of the model.
    """

    def __init__(self, stored: WeightsReader, rules: Sequence[Rule], *, prefix: str, config: LMConfig) -> None:
        self._stored, self._rules, self._prefix, self._config = stored, rules, prefix, config

    def described(self) -> dict[str, Tensor]:
        """Describe every tensor, under our names, by one of its type and shape without numbers.

        Raises:
            CheckpointError: two of their tensors become one of ours, or one cannot be cut as its rule says.
        """
        found: dict[str, Tensor] = {}
        for name, tensor in self._stored.described().items():
            for ours, part in self._changed(name, tensor):
                if ours in found:
                    raise CheckpointError(
                        f"the file has {name!r} and another tensor that is {ours!r} here, too",
                        hint="is it of one model only?",
                    )
                found[ours] = part
        return found

    def stream(self, into: Callable[[str], Tensor | None] = lambda _: None) -> Iterator[tuple[str, Tensor]]:
        """Read all tensors in the order of their bytes; see `StoredWeights.stream`."""

        def straight(name: str) -> Tensor | None:
            names, change = self._rule(name)
            return into(names[0]) if change is None and len(names) == 1 else None

        for name, tensor in self._stored.stream(straight):
            yield from self._changed(name, tensor)

    def _rule(self, name: str) -> tuple[tuple[str, ...], Change | None]:
        return find_rule(name, self._rules, prefix=self._prefix)

    def _changed(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        names, change = self._rule(name)
        if not names:
            return
        try:
            parts = (tensor,) if change is None else change(tensor, self._config)
        except (RuntimeError, IndexError, ValueError) as err:
            raise self._misfit(name, tensor, names) from err
        if len(parts) != len(names):
            raise self._misfit(name, tensor, names)
        yield from zip(names, parts, strict=True)

    def _misfit(self, name: str, tensor: Tensor, names: Sequence[str]) -> CheckpointError:
        return CheckpointError(
            f"tensor {name!r} of shape {list(tensor.shape)} cannot be cut into {', '.join(names)}",
            hint="does config.json belong to these weights?",
        )
