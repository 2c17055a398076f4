"""What back-ends share about carried state: how many steps it holds, and whether a run fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, DimSpec, StateSpec, TensorSpec
from aigc_runtime.errors import EngineError, FeedError

__all__ = [
    "capacity_for",
    "check_batch",
    "check_length",
    "check_rows",
    "check_selection",
    "check_written",
    "enlarged",
    "joined_rows",
    "new_steps",
    "require_specs",
    "require_state",
    "rows_of",
    "take_rows",
]


def new_steps(interface: Interface, sizes: Mapping[str, int], held: int) -> int:
    """How many steps a run adds; refuses a run after which the state would be too long.

    Args:
        interface: of an engine that carries state.
        sizes: of the feeds' named dimensions.
        held: steps held so far.

    Returns:
        0 where nothing has steps.

    Raises:
        FeedError: a buffer is too small, a growing state would exceed the range of its dimension, or the feeds speak of
            another number of held steps.
    """
    name = interface.growing_dim
    if name is not None and sizes.get(name, held) != held:
        raise FeedError(
            f"the feeds are for {name} = {sizes[name]}, the carried state holds {held} steps",
            hint="make the inputs for as many steps as the state holds, or start a new state",
        )
    if interface.step_dim is None:
        return 0
    steps, most = sizes[interface.step_dim], interface.max_steps
    if most is not None and held + steps > most:
        raise FeedError(
            f"{steps} steps do not fit: the engine's carried state of at most {most} holds {held} already",
            hint="start a new state, or export with a longer context",
        )
    return steps


_SPARE_STEPS = 64
"""Places beside what is needed, and what a capacity is a multiple of: a token is one step, and a copy takes longer."""


def capacity_for(interface: Interface, needed: int, capacity: int) -> int:
    """How many places the buffers shall have for a run, where that is a dimension; 0 where it is none.

    They never shrink, and grow by a half at least, so that what is copied in all is at most three times what is held.

    Args:
        interface: of the engine.
        needed: steps that are held behind the run.
        capacity: places that they have now.
    """
    if interface.capacity_dim is None or needed <= capacity:
        return capacity
    dim = interface.dims_by_name[interface.capacity_dim]
    wanted = max(needed + _SPARE_STEPS, capacity + capacity // 2, dim.min)
    wanted = -(-wanted // _SPARE_STEPS) * _SPARE_STEPS
    multiple = -(-wanted // dim.multiple_of) * dim.multiple_of
    return multiple if dim.max is None else min(multiple, dim.max // dim.multiple_of * dim.multiple_of)


def enlarged(array: Array, spec: StateSpec, capacity: int, held: int) -> Array:
    """A buffer of more places, the held steps in it.

    Args:
        array: the tensor.
        spec: of it.
        capacity: places that it shall have.
        held: steps that it holds. What lies behind them is not copied.
    """
    larger = np.zeros(spec.empty_shape(array.shape[spec.batch_axis], capacity), dtype=array.dtype)
    part = (*[slice(None)] * (spec.axis or 0), slice(held))
    larger[part] = array[part]
    return larger


def check_written(
    interface: Interface, batch: int, held: int, shapes: Mapping[str, tuple[int, ...]], capacity: int = 0
) -> None:
    """Check what a run gave back as carried state.

    Args:
        interface: of the engine.
        batch: rows of the state.
        held: steps that it holds after the run.
        capacity: places of its buffers, where that is a dimension.
        shapes: of the state's outputs, by their names.

    Raises:
        EngineError: a shape that the next run could not read.
    """
    for spec in interface.state:
        wanted, found = spec.shape_at(batch, held, capacity), tuple(shapes[spec.output])
        if found != wanted:
            raise EngineError(
                f"the engine gave {spec.output!r} of shape {list(found)}, its carried state needs {list(wanted)}",
                hint=f"state {spec.input!r} is {spec.kind!r}: see the bundle format's carried state",
            )


def check_rows(batch: int, interface: Interface) -> int:
    """The number of rows, or a FeedError if no state can be made for so many."""
    dim = interface.dim("batch") or DimSpec(name="batch")
    rows = as_integer(batch)
    if rows is None or rows < max(1, dim.min):
        raise FeedError(f"a state for {batch!r} rows", hint=f"must be an integer of at least {max(1, dim.min)}")
    if dim.max is not None and rows > dim.max:
        raise FeedError(f"a state for {rows} rows", hint=f"this engine takes at most {dim.max}")
    return rows


def check_length(specs: Sequence[StateSpec], held: int, length: int) -> int:
    """The number of steps that a state is cut back to, or a FeedError if it cannot be.

    Args:
        specs: of its tensors.
        held: steps that it holds.
        length: steps that are to be left, the first ones.
    """
    left = as_integer(length)
    if left is None or not 0 <= left <= held:
        raise FeedError(f"a state of {held} steps is to be cut back to {length!r}", hint=f"must be from 0 to {held}")
    fixed = [spec for spec in specs if not spec.behavior.can_truncate]
    if fixed and left < held:
        raise FeedError(
            f"state {fixed[0].input!r} is {fixed[0].kind!r}: it cannot be cut back to fewer steps",
            hint="start a new state",
        )
    return left


def check_selection(rows: Sequence[int], batch: int) -> list[int]:
    """The rows that a state is to hold, or a FeedError if it does not have one of them."""
    selected = [as_integer(row) for row in rows]
    found = [row for row in selected if row is not None and 0 <= row < batch]
    if len(found) < len(selected) or not found:
        raise FeedError(
            f"rows {list(rows)} of a state for {batch} rows", hint=f"must be one or more integers from 0 to {batch - 1}"
        )
    return found


def take_rows(array: Array, spec: StateSpec, rows: Sequence[int], held: int) -> Array:
    """Rows of a carried tensor.

    Args:
        array: the tensor.
        spec: of it.
        rows: of it, in the order that is wanted.
        held: steps that it holds. What lies behind them in a buffer is not copied.
    """
    if not spec.behavior.in_place or spec.axis is None:
        return np.take(array, rows, axis=spec.batch_axis)
    taken = np.zeros(spec.empty_shape(len(rows), array.shape[spec.axis]), dtype=array.dtype)
    part = (*[slice(None)] * spec.axis, slice(held))
    taken[part] = np.take(array[part], rows, axis=spec.batch_axis)
    return taken


def rows_of(feeds: Mapping[str, Array], specs: Sequence[TensorSpec], row: int) -> dict[str, Array]:
    """What one row of a run is fed: its part of every tensor that has rows, and the others whole.

    Args:
        feeds: of all rows, by the names of the inputs.
        specs: of the inputs.
        row: of the batch.
    """
    axes = {spec.name: spec.shape.index("batch") for spec in specs if "batch" in spec.shape}
    return {name: np.take(array, [row], axis=axes[name]) if name in axes else array for name, array in feeds.items()}


def joined_rows(results: Sequence[Mapping[str, Array]], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """What the runs of single rows gave, as one run of all of them would have given it.

    Args:
        results: of each row, by the names of the outputs.
        specs: of the outputs; one without rows is the first run's.
    """
    return {
        spec.name: np.concatenate([one[spec.name] for one in results], axis=spec.shape.index("batch"))
        if "batch" in spec.shape
        else results[0][spec.name]
        for spec in specs
    }


def check_batch(sizes: Mapping[str, int], batch: int) -> None:
    """Raise FeedError if the feeds' batch is not the state's."""
    if sizes.get("batch", batch) != batch:
        raise FeedError(
            f"the feeds have batch {sizes['batch']}, the state was made for {batch}", hint="make a new state"
        )


def require_state(state: object, cls: type, interface: Interface) -> None:
    """Raise FeedError unless `state` is given exactly where the engine carries state, and is this back-end's own."""
    if interface.state and not isinstance(state, cls):
        found = "none was given" if state is None else f"a {type(state).__name__} was given"
        raise FeedError(f"this engine carries state, {found}", hint="pass a state from session.new_state(batch)")


def require_specs(specs: tuple[StateSpec, ...], interface: Interface) -> None:
    """Raise FeedError unless a state holds the tensors that the engine carries."""
    if specs is not interface.state and specs != interface.state:
        raise FeedError(
            "the state is of an engine that carries other tensors", hint="pass a state from session.new_state(batch)"
        )
