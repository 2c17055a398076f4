"""The subject of a calibration: a graph's interface, and what the arrays that it is fed may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, TensorSpec

__all__ = ["ArrayRules", "Subject"]


def _no_fault(_arrays: Mapping[str, Array]) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class ArrayRules:
    """What the arrays of a graph may hold, beyond what its interface says.

    Attributes:
        limits: input -> smallest and largest number, both allowed.
        words: input -> its range in words, where two numbers do not say it.
        varied: inputs of integers that must not be one constant; inputs of real numbers never may be.
        find_fault: (arrays of one batch) -> what is wrong with them together; empty if nothing is.
        derived: inputs that nobody gives -> (arrays of one batch) -> what they are.
    """

    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    varied: frozenset[str] = frozenset()
    find_fault: Callable[[Mapping[str, Array]], str] = _no_fault
    derived: Mapping[str, Callable[[Mapping[str, Array]], Array]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is calibrated.

    Attributes:
        interface: of the graph.
        rules: of the arrays that it is fed.
    """

    interface: Interface
    rules: ArrayRules = ArrayRules()

    @property
    def given(self) -> tuple[TensorSpec, ...]:
        """The inputs that a user gives arrays for."""
        return tuple(tensor for tensor in self.interface.inputs if tensor.name not in self.rules.derived)

    def complete(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays for every input: those that are given, and those that follow from them."""
        return {**arrays, **{name: derive(arrays) for name, derive in self.rules.derived.items()}}
