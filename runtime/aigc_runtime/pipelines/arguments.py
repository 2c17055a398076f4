"""What the image pipelines share: checks of arguments, and batches that an engine takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real

import numpy as np

from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.io.printable import shown

__all__ = ["batch_bounds", "check_count", "check_labels", "check_number", "chunks", "fit", "require_tensors"]

Wanted = Mapping[str, tuple[str, Sequence[int | None]]]
"""Name -> element type and sizes of a tensor; None stands for any size."""


def require_tensors(session: Session, *, inputs: Wanted, outputs: Wanted) -> None:
    """Refuse a session that a pipeline cannot drive.

    Args:
        session: any.
        inputs: that the pipeline feeds, all of them.
        outputs: that it reads; there may be more.

    Raises:
        ConfigError: an input or output is missing, has other sizes or another type, or there is an input that the
            pipeline does not know.
    """
    for side, specs, wanted in (
        ("inputs", session.interface.inputs, inputs),
        ("outputs", session.interface.outputs, outputs),
    ):
        found = {spec.name: spec for spec in specs}
        if not wanted.keys() <= found.keys() or (side == "inputs" and len(found) > len(wanted)):
            raise ConfigError(
                f"the engine has the {side} {sorted(found)}", hint=f"this pipeline needs {sorted(wanted)}"
            )
        for name, (dtype, sizes) in wanted.items():
            shape = found[name].shape
            if len(shape) != len(sizes) or any(
                isinstance(n, int) and m is not None and n != m for n, m in zip(shape, sizes, strict=True)
            ):
                said = ["any" if m is None else m for m in sizes]
                raise ConfigError(
                    f"the engine's {name!r} has shape {list(shape)}, the settings say {said}",
                    hint="the engine and the settings do not belong together",
                )
            # What a pipeline feeds and reads, whatever an engine computes with inside.
            if found[name].dtype != dtype:
                raise ConfigError(f"tensor {name!r} has dtype {found[name].dtype!r}", hint=f"must be {dtype}")


def batch_bounds(session: Session, name: str) -> tuple[int, int | None]:
    """Fewest and most rows of the input `name` in one run; None where there is no limit."""
    (size,) = (spec.shape[0] for spec in session.interface.inputs if spec.name == name)
    if isinstance(size, int):
        return size, size
    dim = session.interface.dim(size)
    return (1, None) if dim is None else (dim.min, dim.max)


def fit(session: Session, dim: str, size: int) -> int:
    """The size nearest to `size` that the session takes along a named dimension."""
    found = session.interface.dim(dim)
    return size if found is None else found.nearest(size)


def chunks(count: int, most: int | None) -> Iterator[slice]:
    """Slices of at most `most` rows that cover `count` rows.

    >>> list(chunks(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size = count if most is None else most
    for start in range(0, count, max(1, size)):
        yield slice(start, min(count, start + size))


def check_labels(labels: Sequence[int] | None, num_classes: int | None) -> Array:
    """Class labels as int64 [N].

    Raises:
        InputError: none given, not integers, or outside 0 to num_classes - 1.
    """
    span = "" if num_classes is None else f" from 0 to {num_classes - 1}"
    if labels is None:
        raise InputError("no class labels were given", hint=f"give one per image{span and ',' + span}")
    try:
        array = np.asarray(labels)
    except ValueError as err:  # a ragged list
        raise InputError(f"class labels {shown(labels)}", hint=f"must be a list of integers{span}") from err
    if array.shape == (0,):
        raise InputError("no class labels were given", hint=f"give one per image{span and ',' + span}")
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"class labels {shown(labels)}", hint=f"must be a list of integers{span}")
    if array.min() < 0 or (num_classes is not None and array.max() >= num_classes):
        bad = array[(array < 0) | (array >= (np.inf if num_classes is None else num_classes))][0]
        raise InputError(f"class label {bad}", hint=f"must be{span or ' 0 or more'}")
    return array.astype(np.int64)


def check_count(name: str, value: object) -> int:
    """Return `value` if it is an integer of at least 1.

    Raises:
        InputError: anything else, booleans included.
    """
    count = as_integer(value)
    if count is None or count < 1:
        raise InputError(f"{name} is {shown(value)}", hint="must be an integer of at least 1")
    return count


def check_number(name: str, value: object, low: float, high: float = math.inf) -> float:
    """Return `value` if it is a finite number from `low` to `high`.

    Raises:
        InputError: anything else, NaN and booleans included.
    """
    number = _as_float(value)
    if number is None or not low <= number <= high:
        bound = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise InputError(f"{name} is {shown(value)}", hint=f"must be a number {bound}")
    return number


def _as_float(value: object) -> float | None:
    """A real number as a finite float; None for all else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer beyond 1e308
        return None
    return number if math.isfinite(number) else None
