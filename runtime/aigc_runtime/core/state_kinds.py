"""The ways in which an engine carries a tensor from one step to the next, each as one object.

| kind | before the first step | a run of S steps gives | full | truncated |
| --- | --- | --- | --- | --- |
| `growing` | size 0 on the axis | the tensor, S longer on the axis | at its dimension's largest size | a slice |
| `buffer` | zeros, of its capacity | the tensor, the new steps behind the held ones | at its capacity | as it is |
| `window` | zeros, of its size | the tensor of the same shape; the oldest steps fall out | never | never |
| `recurrent` | zeros | another tensor of the same shape; it has no steps | never | never |

The capacity of a buffer is a number, or a dimension: then a session begins with a small one and enlarges it between
runs, up to the dimension's largest size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aigc_runtime.core.sizes import Shape, Size, add_sizes, is_dim_name, shape_value
from aigc_runtime.errors import ConfigError

if TYPE_CHECKING:
    from aigc_runtime.core.tensors import DimSpec, StateSpec

__all__ = ["BATCH", "STATE_KINDS", "StateKind"]

BATCH = "batch"
"""The dimension of the rows: every carried tensor has it once."""


class StateKind(Protocol):
    """How a carried tensor behaves."""

    @property
    def has_steps(self) -> bool:
        """Whether it gathers steps along an axis."""
        ...

    @property
    def takes_length(self) -> bool:
        """Whether the engine has an input that takes the number of steps held."""
        ...

    @property
    def in_place(self) -> bool:
        """Whether an engine may write the output over the input: it changes nothing that it still reads."""
        ...

    @property
    def can_truncate(self) -> bool:
        """Whether the tensor of fewer steps follows from that of more."""
        ...

    @property
    def is_steady(self) -> bool:
        """Whether the output always has the shape of the input."""
        ...

    def check(self, spec: StateSpec) -> None:
        """Refuse a spec that means nothing.

        Raises:
            ConfigError: says why.
        """
        ...

    def shape(self, spec: StateSpec, batch: int, held: int, capacity: int) -> tuple[int, ...]:
        """The shape of the tensor that holds `held` steps; a buffer has `capacity` places where that is a dimension."""
        ...

    def output_shape(self, spec: StateSpec) -> Shape:
        """The shape of the output, with named dimensions."""
        ...

    def room(self, spec: StateSpec, held: int, dims: Mapping[str, DimSpec]) -> int | None:
        """How many steps still fit; None where any number does.

        Args:
            spec: of the tensor.
            held: steps held so far.
            dims: the named dimensions that may bound it.
        """
        ...

    def longest_shape(self, spec: StateSpec, batch: int, dims: Mapping[str, DimSpec]) -> tuple[int, ...]:
        """The shape at its longest; a dimension without an end counts as nothing."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Growing:
    """The output is the input with the new steps behind it."""

    has_steps: bool = True
    takes_length: bool = False
    in_place: bool = False
    can_truncate: bool = True
    is_steady: bool = False

    def check(self, spec: StateSpec) -> None:
        _check_fields(spec, length=False, axis=True)
        size = _axis_size(spec)
        if not isinstance(size, str) or not is_dim_name(size) or size in (BATCH, spec.step_dim):
            raise ConfigError(
                f"state {spec.input!r} grows along axis {spec.axis} of size {size!r}",
                hint="its size there must be a named dimension of its own, such as 'past'",
            )

    def shape(self, spec: StateSpec, batch: int, held: int, capacity: int) -> tuple[int, ...]:
        return shape_value(spec.shape, {BATCH: batch, str(_axis_size(spec)): held})

    def output_shape(self, spec: StateSpec) -> Shape:
        return tuple(
            add_sizes(size, str(spec.step_dim)) if axis == spec.axis else size for axis, size in enumerate(spec.shape)
        )

    def room(self, spec: StateSpec, held: int, dims: Mapping[str, DimSpec]) -> int | None:
        return _room_within(spec, held, dims)

    def longest_shape(self, spec: StateSpec, batch: int, dims: Mapping[str, DimSpec]) -> tuple[int, ...]:
        return self.shape(spec, batch, self.room(spec, 0, dims) or 0, 0)


@dataclass(frozen=True, kw_only=True)
class _Steady:
    """The output of a run has the shape of the input.

    Attributes:
        is_bounded: whether it is full once its axis is: each step has its own place in it. Its size there may be a
            dimension, the capacity that a session chooses.
    """

    has_steps: bool
    takes_length: bool
    in_place: bool
    is_bounded: bool
    is_steady: bool = True

    @property
    def can_truncate(self) -> bool:
        return self.is_bounded

    def check(self, spec: StateSpec) -> None:
        _check_fields(spec, length=self.takes_length, axis=self.has_steps)
        size = _axis_size(spec)
        is_named = isinstance(size, str) and is_dim_name(size) and size not in (BATCH, spec.step_dim)
        free = spec.axis if self.is_bounded and is_named else None
        if any(isinstance(one, str) and one != BATCH for axis, one in enumerate(spec.shape) if axis != free):
            also = " or, on its axis, a dimension of its own, such as 'capacity'" if self.is_bounded else ""
            raise ConfigError(
                f"state {spec.input!r} of kind {spec.kind!r} has shape {list(spec.shape)}",
                hint=f"every size but {BATCH!r} must be a number{also}",
            )

    def shape(self, spec: StateSpec, batch: int, held: int, capacity: int) -> tuple[int, ...]:
        return shape_value(spec.shape, {BATCH: batch, str(_axis_size(spec)): capacity})

    def output_shape(self, spec: StateSpec) -> Shape:
        return spec.shape

    def room(self, spec: StateSpec, held: int, dims: Mapping[str, DimSpec]) -> int | None:
        size = _axis_size(spec) if self.is_bounded else None
        return size - held if isinstance(size, int) else _room_within(spec, held, dims)

    def longest_shape(self, spec: StateSpec, batch: int, dims: Mapping[str, DimSpec]) -> tuple[int, ...]:
        return self.shape(spec, batch, 0, self.room(spec, 0, dims) or 0)


STATE_KINDS: Mapping[str, StateKind] = {
    "growing": _Growing(),
    "buffer": _Steady(has_steps=True, takes_length=True, in_place=True, is_bounded=True),
    "window": _Steady(has_steps=True, takes_length=True, in_place=False, is_bounded=False),
    "recurrent": _Steady(has_steps=False, takes_length=False, in_place=False, is_bounded=False),
}
"""`StateSpec.kind` -> how it behaves."""


def _axis_size(spec: StateSpec) -> Size | None:
    return None if spec.axis is None else spec.shape[spec.axis]


def _room_within(spec: StateSpec, held: int, dims: Mapping[str, DimSpec]) -> int | None:
    """How many steps the dimension of its axis leaves beside `held`; None where nothing bounds it."""
    size = _axis_size(spec)
    dim = dims.get(size) if isinstance(size, str) else None
    return None if dim is None or dim.max is None else dim.max - held


def _check_fields(spec: StateSpec, *, length: bool, axis: bool) -> None:
    """Check what every kind has or has not, and that the rows are one axis.

    Raises:
        ConfigError: says which field.
    """
    what = f"state {spec.input!r} of kind {spec.kind!r}"
    for name, value, wanted in (
        ("axis", spec.axis, axis),
        ("step_dim", spec.step_dim, axis),
        ("length_input", spec.length_input, length),
    ):
        if (value is not None) != wanted:
            raise ConfigError(
                f"{what} has {name}={value!r}",
                hint=f"{_MEANING[name]}; {'one is needed here' if wanted else 'this kind has none'}",
            )
    if spec.axis is not None and not 0 <= spec.axis < len(spec.shape):
        raise ConfigError(f"{what}: axis {spec.axis} outside shape {list(spec.shape)}")
    rest = [size for i, size in enumerate(spec.shape) if i != spec.axis]
    if rest.count(BATCH) != 1 or any(isinstance(size, str) and size != BATCH for size in rest):
        raise ConfigError(
            f"{what} has shape {list(spec.shape)}",
            hint=f"{BATCH!r} must be one size, every other a number" + (", the axis of steps aside" if axis else ""),
        )


_MEANING = {
    "axis": "the axis along which steps gather",
    "step_dim": "the dimension of the inputs that says how many steps a run adds, such as 'sequence'",
    "length_input": "the int64 input of shape [1] that takes the number of steps held so far",
}
