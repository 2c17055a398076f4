"""What goes into an engine and what comes out: specifications and the checks on feeds.

An engine fed with a big-endian array, a token id of -1 or a Python list gives wrong numbers instead of an
error, so every feed is checked here before any engine sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from aigc_runtime.errors import ConfigError, FeedError

__all__ = ["DTYPES", "Array", "DimSpec", "FeedChecker", "StateSpec", "TensorSpec", "bind_dims", "check_dims"]

Array = np.ndarray[Any, np.dtype[Any]]

DTYPES = ("float32", "float16", "int64", "int32", "int8", "uint8", "bool")
"""The element types that may cross the boundary of an engine."""

_MOST_KNOWN_SHAPES = 256
_MAX_SIZE = 2**31 - 1
_NATIVE = {name: np.dtype(name) for name in DTYPES}


@dataclass(frozen=True, kw_only=True)
class DimSpec:
    """A named dynamic dimension.

    Attributes:
        name: as it stands in tensor shapes.
        min: smallest size, >= 0.
        max: largest size, or None where only memory bounds it.
        multiple_of: sizes must be divisible by this.
    """

    name: str
    min: int = 1
    max: int | None = None
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if self.min < 0 or self.multiple_of < 1 or (self.max is not None and self.max < self.min):
            raise ConfigError(
                f"dimension {self.name!r}: min={self.min}, max={self.max}, multiple_of={self.multiple_of}",
                hint="need 0 <= min <= max and multiple_of >= 1",
            )
        if (self.max or self.min) > _MAX_SIZE:
            raise ConfigError(
                f"dimension {self.name!r}: max is {self.max or self.min:,}", hint=f"at most {_MAX_SIZE:,}"
            )
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
        shape: sizes; a string is a named dynamic dimension (`DimSpec`) or `"a+b"`, the sum of two.
        low: smallest value that an integer tensor may hold (inclusive), if bounded.
        high: bound on an integer tensor's values (exclusive), if bounded.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    low: int | None = None
    high: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"tensor {self.name!r} has dtype {self.dtype!r}", hint=f"valid: {', '.join(DTYPES)}")
        _check_shape(f"tensor {self.name!r}", self.shape)


@dataclass(frozen=True, kw_only=True)
class StateSpec:
    """One carried tensor: the engine's `output` of a step is its `input` of the next.

    Attributes:
        input: name of the engine's input, for example `past_key_0`.
        output: name of the engine's output, for example `present_key_0`.
        dtype: one of `DTYPES`.
        shape: of the input; must hold the `batch` dimension first.
        axis: the axis along which steps accumulate.
        kind: `growing`: starts with size 0 on `axis` and the output is past + new. `buffer`: always
            `capacity` long on `axis`, written in place at the position given by `length_input`.
        length_input: for `buffer`, the int64 input of shape [1] that takes the number of steps held so far.
        step_dim: the named dimension of the inputs that says how many steps a run adds.
    """

    input: str
    output: str
    dtype: str
    shape: tuple[int | str, ...]
    axis: int
    kind: Literal["growing", "buffer"]
    length_input: str | None = None
    step_dim: str = "sequence"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"state {self.input!r} has dtype {self.dtype!r}", hint=f"valid: {', '.join(DTYPES)}")
        _check_shape(f"state {self.input!r}", self.shape)
        if self.kind not in ("growing", "buffer"):
            raise ConfigError(f"state {self.input!r} has kind {self.kind!r}", hint="valid: growing, buffer")
        if not 0 < self.axis < len(self.shape):
            raise ConfigError(f"state {self.input!r}: axis {self.axis} outside shape {self.shape}")
        rest = [size for axis, size in enumerate(self.shape) if axis != self.axis]
        if rest[0] != "batch" or any(isinstance(size, str) for size in rest[1:]):
            raise ConfigError(
                f"state {self.input!r} has shape {list(self.shape)}",
                hint=f"must be 'batch' first and numbers after it, axis {self.axis} aside",
            )
        if (self.kind == "buffer") != (self.length_input is not None):
            raise ConfigError(
                f"state {self.input!r}: kind {self.kind!r} with length_input={self.length_input!r}",
                hint="a buffer names its length input; a growing state has none",
            )
        if self.kind == "buffer" and not isinstance(self.shape[self.axis], int):
            raise ConfigError(f"state {self.input!r}: a buffer's size along axis {self.axis} must be a number")

    def empty_shape(self, batch: int) -> tuple[int, ...]:
        """The shape of the input before the first step."""
        sizes = [batch, *(size if isinstance(size, int) else 0 for size in self.shape[1:])]
        if self.kind == "growing":
            sizes[self.axis] = 0
        return tuple(sizes)

    @property
    def capacity(self) -> int | None:
        """Most steps that fit, for a buffer; None for a growing state."""
        size = self.shape[self.axis]
        return size if self.kind == "buffer" and isinstance(size, int) else None


def _check_shape(what: str, shape: tuple[int | str, ...]) -> None:
    if any(isinstance(size, int) and not 1 <= size <= _MAX_SIZE for size in shape):
        raise ConfigError(f"{what} has shape {list(shape)}", hint=f"sizes must be from 1 to {_MAX_SIZE}")


def bind_dims(spec: TensorSpec, shape: Sequence[int], dims: dict[str, int]) -> None:
    """Match `shape` with `spec.shape`, adding newly met named dimensions to `dims` in place.

    Raises:
        FeedError: rank or a size differs, or a name is bound to two sizes.
    """
    if len(shape) != len(spec.shape):
        raise FeedError(
            f"input {spec.name!r} has rank {len(shape)} (shape {tuple(shape)}), expected rank {len(spec.shape)}",
            hint=f"expected shape {list(spec.shape)}",
        )
    for axis, (size, want) in enumerate(zip(shape, spec.shape, strict=True)):
        known = want if isinstance(want, int) else _lookup(want, dims)
        if known is None:
            dims[str(want)] = size
        elif size != known:
            raise FeedError(
                f"input {spec.name!r} has size {size} on axis {axis}, expected {want}"
                + ("" if isinstance(want, int) else f" = {known}"),
                hint=f"expected shape {list(spec.shape)}, found {list(shape)}",
            )


def _lookup(name: str, dims: Mapping[str, int]) -> int | None:
    if name in dims:
        return dims[name]
    if "+" not in name:
        return None
    parts = name.split("+")
    return sum(dims[p] for p in parts) if all(p in dims for p in parts) else None


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
        self._known: dict[tuple[tuple[int, ...], ...], dict[str, int]] = {}

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
        bound = self._known.get(shapes)
        if bound is None:
            bound = {}
            for spec, shape in zip(self._specs, shapes, strict=True):
                bind_dims(spec, shape, bound)
            check_dims(bound, self._dims)
            if len(self._known) >= _MOST_KNOWN_SHAPES:
                self._known = {}
            self._known[shapes] = bound
        for spec in self._bounded:
            if feeds[spec.name].size:
                _check_range(spec, feeds[spec.name])
        return bound


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


def _check_range(spec: TensorSpec, array: Array) -> None:
    low, high = int(array.min()), int(array.max())
    if (spec.low is not None and low < spec.low) or (spec.high is not None and high >= spec.high):
        raise FeedError(
            f"input {spec.name!r} holds values from {low} to {high}",
            hint=f"values must be in [{spec.low}, {spec.high})",
        )
