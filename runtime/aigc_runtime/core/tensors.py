"""What goes into an engine and what comes out: specifications and the checks on feeds.

An engine fed with a big-endian array, a token id of -1 or a Python list gives wrong numbers instead of an
error, so every feed is checked here before any engine sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from aigc_runtime.core.sizes import (
    MAX_SIZE,
    MAX_SIZE_TEXT,
    Shape,
    Size,
    check_shape,
    is_dim_name,
    parse_size,
    size_value,
)
from aigc_runtime.core.state_kinds import BATCH, STATE_KINDS, StateKind
from aigc_runtime.errors import ConfigError, FeedError

__all__ = ["DTYPES", "Array", "DimSpec", "FeedChecker", "StateSpec", "TensorSpec", "bind_dims", "check_dims"]

Array = np.ndarray[Any, np.dtype[Any]]

DTYPES = ("float32", "float16", "int64", "int32", "int8", "uint8", "bool")
"""The element types that may cross the boundary of an engine."""

_MOST_KNOWN_SHAPES = 256
_NATIVE = {name: np.dtype(name) for name in DTYPES}


@dataclass(frozen=True, kw_only=True)
class DimSpec:
    """A named dynamic dimension.

    Attributes:
        name: as it stands in tensor shapes: ASCII letters, digits and `_`, not a digit first, at most 64.
        min: smallest size, >= 0.
        max: largest size, or None where only memory bounds it.
        multiple_of: sizes must be divisible by this.
    """

    name: str
    min: int = 1
    max: int | None = None
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if not is_dim_name(self.name):
            raise ConfigError(
                f"a dimension is called {self.name[:MAX_SIZE_TEXT]!a}",
                hint="ASCII letters, digits and _, not a digit first, at most 64",
            )
        if self.min < 0 or self.multiple_of < 1 or (self.max is not None and self.max < self.min):
            raise ConfigError(
                f"dimension {self.name!r}: min={self.min}, max={self.max}, multiple_of={self.multiple_of}",
                hint="need 0 <= min <= max and multiple_of >= 1",
            )
        if (self.max or self.min) > MAX_SIZE:
            raise ConfigError(f"dimension {self.name!r}: max is {self.max or self.min:,}", hint=f"at most {MAX_SIZE:,}")
        if self.max is not None and -(-self.min // self.multiple_of) * self.multiple_of > self.max:
            raise ConfigError(
                f"dimension {self.name!r}: no size from {self.min} to {self.max} is a multiple of {self.multiple_of}",
                hint="at least one size must be allowed",
            )

    def nearest(self, size: int) -> int:
        """The allowed size nearest to `size`, the smaller one of two.

        >>> DimSpec(name="height", min=4, max=64, multiple_of=4).nearest(70)
        64
        """
        least = -(-self.min // self.multiple_of) * self.multiple_of
        size = size if self.max is None else min(size, self.max)
        return max(least, size // self.multiple_of * self.multiple_of)


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One named input or output.

    Attributes:
        name: as the engine knows it.
        dtype: one of `DTYPES`.
        shape: sizes; a string is a named dynamic dimension (`DimSpec`), or a size that follows from such ones
            (`aigc_runtime.core.sizes`): `"past+sequence"`, and for outputs also `"(height+1)//2"`.
        low: smallest value that an integer tensor may hold (inclusive), if bounded.
        high: bound on an integer tensor's values (exclusive), if bounded: a number, or a sum of dimensions of the
            inputs, such as `"sequence"` for places in a row.
    """

    name: str
    dtype: str
    shape: Shape
    low: int | None = None
    high: Size | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"tensor {self.name!r} has dtype {self.dtype!r}", hint=f"valid: {', '.join(DTYPES)}")
        check_shape(f"tensor {self.name!r}", self.shape)
        if isinstance(self.high, str):
            check_shape(f"the bound of tensor {self.name!r}", (self.high,))

    def high_at(self, sizes: Mapping[str, int]) -> int | None:
        """The bound on the values at these sizes of the dimensions; None if there is none, or a size is not given."""
        return None if self.high is None else size_value(self.high, sizes)


@dataclass(frozen=True, kw_only=True)
class StateSpec:
    """One carried tensor: the engine's `output` of a step is its `input` of the next.

    Attributes:
        input: name of the engine's input, for example `past_key_0`.
        output: name of the engine's output, for example `present_key_0`.
        dtype: one of `DTYPES`.
        shape: of the input; one size is `batch`, every other but the one on `axis` is a number, and that one of a
            `growing` tensor a dimension, of a `buffer` a number or a dimension.
        axis: the axis along which steps gather; None for `recurrent`.
        kind: key of `STATE_KINDS`. `growing`: starts with size 0 on `axis` and the output is past + new. `buffer`:
            written in place at the position given by `length_input`; always of one size, or of as many places as the
            session chooses between runs. `window`: always of one size,
            the oldest steps fall out. `recurrent`: a tensor that every run replaces; it has no steps.
        length_input: for `buffer` and `window`, the int64 input of shape [1] that takes the number of steps held so
            far, those that fell out included.
        step_dim: the named dimension of the inputs that says how many steps a run adds; None for `recurrent`.
    """

    input: str
    output: str
    dtype: str
    shape: Shape
    axis: int | None = None
    kind: Literal["growing", "buffer", "window", "recurrent"]
    length_input: str | None = None
    step_dim: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"state {self.input!r} has dtype {self.dtype!r}", hint=f"valid: {', '.join(DTYPES)}")
        check_shape(f"state {self.input!r}", self.shape)
        if self.kind not in STATE_KINDS:
            raise ConfigError(f"state {self.input!r} has kind {self.kind!r}", hint=f"valid: {', '.join(STATE_KINDS)}")
        self.behavior.check(self)

    @property
    def behavior(self) -> StateKind:
        """What its kind means."""
        return STATE_KINDS[self.kind]

    def empty_shape(self, batch: int, capacity: int = 0) -> tuple[int, ...]:
        """The shape of the input before the first step; `capacity` as in `shape_at`."""
        return self.shape_at(batch, 0, capacity)

    def shape_at(self, batch: int, held: int, capacity: int = 0) -> tuple[int, ...]:
        """The shape of the tensor that holds `held` steps; `capacity` counts where it is a dimension."""
        return self.behavior.shape(self, batch, held, capacity)

    def longest_shape(self, batch: int, dims: Mapping[str, DimSpec]) -> tuple[int, ...]:
        """The shape at its longest; a dimension without an end counts as nothing."""
        return self.behavior.longest_shape(self, batch, dims)

    def room(self, held: int, dims: Mapping[str, DimSpec]) -> int | None:
        """How many steps still fit beside `held`; None where any number does."""
        return self.behavior.room(self, held, dims)

    @property
    def batch_axis(self) -> int:
        """The axis of the rows."""
        return self.shape.index(BATCH)

    @property
    def output_shape(self) -> Shape:
        """The shape of the output, with named dimensions."""
        return self.behavior.output_shape(self)

    @property
    def growing_dim(self) -> str | None:
        """The dimension whose size is the number of steps held; None where the shape says nothing about it."""
        size = None if self.behavior.is_steady or self.axis is None else self.shape[self.axis]
        return size if isinstance(size, str) else None

    @property
    def capacity_dim(self) -> str | None:
        """The dimension whose size is the number of places of a buffer; None where that is a number, or no buffer."""
        size = self.shape[self.axis] if self.behavior.is_steady and self.axis is not None else None
        return size if isinstance(size, str) else None


def bind_dims(tensors: Iterable[tuple[TensorSpec, Sequence[int]]]) -> dict[str, int]:
    """Find the sizes of the named dimensions from the shapes of tensors.

    Named sizes are read first, then sums: one dimension of a sum that nothing else tells follows from it.

    Args:
        tensors: each with the shape that it was found to have.

    Raises:
        FeedError: a rank or a size differs, or a name has two sizes.
    """
    pairs, dims = tuple(tensors), dict[str, int]()
    sums = []
    for spec, shape in pairs:
        if len(shape) != len(spec.shape):
            raise FeedError(
                f"input {spec.name!r} has rank {len(shape)} (shape {tuple(shape)}), expected rank {len(spec.shape)}",
                hint=f"expected shape {list(spec.shape)}",
            )
        for axis, (size, want) in enumerate(zip(shape, spec.shape, strict=True)):
            if isinstance(want, str) and not is_dim_name(want):
                sums.append((spec, shape, axis))
            elif isinstance(want, int) or want in dims:
                _check_size(spec, shape, axis, dims)
            else:
                dims[want] = size
    while sums:
        left = [one for one in sums if not _bind_sum(*one, dims)]
        if len(left) == len(sums):
            break
        sums = left
    return dims


def _bind_sum(spec: TensorSpec, shape: Sequence[int], axis: int, dims: dict[str, int]) -> bool:
    """Check a size that follows from dimensions, or find the only one that is not known; False if there are several."""
    size, want = shape[axis], parse_size(str(spec.shape[axis]))
    unknown = [name for name in want.names if name not in dims]
    if len(unknown) > 1:
        return False
    if unknown:
        rest = want.value({**dims, unknown[0]: 0})
        assert rest is not None
        dims[unknown[0]] = max(0, size - rest)
    _check_size(spec, shape, axis, dims)
    return True


def _check_size(spec: TensorSpec, shape: Sequence[int], axis: int, dims: Mapping[str, int]) -> None:
    want = spec.shape[axis]
    known = size_value(want, dims)
    if shape[axis] != known:
        raise FeedError(
            f"input {spec.name!r} has size {shape[axis]} on axis {axis}, expected {want}"
            + ("" if isinstance(want, int) else f" = {known}"),
            hint=f"expected shape {list(spec.shape)}, found {list(shape)}",
        )


def check_dims(bound: Mapping[str, int], dims: Mapping[str, DimSpec]) -> None:
    """Check the sizes of named dimensions against their ranges.

    Raises:
        FeedError: a size outside its range or not a multiple of what the model needs.
    """
    for name, size in bound.items():
        dim = dims.get(name)
        if dim is None:
            continue
        if size < dim.min or (dim.max is not None and size > dim.max) or size % dim.multiple_of:
            top = "unbounded" if dim.max is None else dim.max
            multiple = f", a multiple of {dim.multiple_of}" if dim.multiple_of > 1 else ""
            raise FeedError(f"dimension {name!r} is {size}", hint=f"must be {dim.min} to {top}{multiple}")


class FeedChecker:
    """Checks every feed of a session: names, type, dtype, byte order, rank, shape and id range.

    Shapes repeat from step to step, so the sizes of the named dimensions are worked out once per set of shapes.

    Args:
        specs: the inputs that the caller must feed.
        dims: the named dynamic dimensions with their ranges.
    """

    def __init__(self, specs: Sequence[TensorSpec], dims: Mapping[str, DimSpec]) -> None:
        self._specs, self._dims = tuple(specs), dict(dims)
        self._names = {spec.name for spec in specs}
        self._bounded = [spec for spec in specs if spec.low is not None or spec.high is not None]
        self._known: dict[tuple[tuple[int, ...], ...], tuple[dict[str, int], tuple[int | None, ...]]] = {}

    def check(self, feeds: Mapping[str, Array]) -> Mapping[str, int]:
        """Check feeds and return the sizes of the named dimensions.

        Raises:
            FeedError: says which input, what was found and what is expected.
        """
        if feeds.keys() != self._names:
            missing, extra = sorted(self._names - feeds.keys()), sorted(feeds.keys() - self._names)
            raise FeedError(
                "wrong inputs:"
                + (f" missing {missing}" if missing else "")
                + (f" unexpected {extra}" if extra else ""),
                hint=f"expected {sorted(self._names)}",
            )
        shapes = tuple([_check_type(spec, feeds[spec.name]) for spec in self._specs])
        known = self._known.get(shapes)
        if known is None:
            sizes = bind_dims(zip(self._specs, shapes, strict=True))
            check_dims(sizes, self._dims)
            if len(self._known) >= _MOST_KNOWN_SHAPES:
                self._known = {}
            known = self._known[shapes] = (sizes, tuple(spec.high_at(sizes) for spec in self._bounded))
        for spec, high in zip(self._bounded, known[1], strict=True):
            if feeds[spec.name].size:
                _check_range(spec, feeds[spec.name], high)
        return known[0]


def _check_type(spec: TensorSpec, array: Array) -> tuple[int, ...]:
    """Check that `array` is one, of the right element type; returns its shape."""
    if not isinstance(array, np.ndarray):
        raise FeedError(
            f"input {spec.name!r} is a {type(array).__name__}, not a numpy array",
            hint=f"pass np.asarray(value, dtype=np.{spec.dtype})",
        )
    native = _NATIVE[spec.dtype]
    # Types in numpy's native byte order are singletons; a big-endian one is another object.
    if array.dtype is not native and (array.dtype != native or not array.dtype.isnative):
        raise FeedError(
            f"input {spec.name!r} has dtype {array.dtype.str} ({array.dtype.name}), expected {spec.dtype}",
            hint=f"pass array.astype(np.{spec.dtype}), native byte order",
        )
    shape: tuple[int, ...] = array.shape
    return shape


def _check_range(spec: TensorSpec, array: Array, bound: int | None) -> None:
    """Check the values of integers; `bound` is that of this run, exclusive."""
    if array.size == 1:  # a decoded token: reductions would take most of the check's time
        low = high = int(array.item())
    else:
        low, high = int(array.min()), int(array.max())
    if (spec.low is not None and low < spec.low) or (bound is not None and high >= bound):
        told = f"{spec.high} = {bound}" if isinstance(spec.high, str) else spec.high
        raise FeedError(
            f"input {spec.name!r} holds values from {low} to {high}",
            hint=f"values must be in [{spec.low}, {told})",
        )
