"""What back-ends share about carried state: how many steps it holds, and whether a run fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from aigc_runtime.errors import FeedError
from aigc_runtime.integers import as_integer
from aigc_runtime.tensors import DimSpec, StateSpec

__all__ = ["check_batch", "check_rows", "new_steps", "require_state"]


def new_steps(
    specs: Sequence[StateSpec], sizes: Mapping[str, int], held: int, dims: Mapping[str, DimSpec] = MappingProxyType({})
) -> int:
    """How many steps a run adds; refuses a run after which the state would be too long.

    Args:
        specs: the carried state, not empty.
        sizes: of the feeds' named dimensions.
        held: steps held so far.
        dims: the ranges of the named dimensions.

    Raises:
        FeedError: the buffer is too small, or a growing state would exceed the range of its dimension.
    """
    steps, size = sizes[specs[0].step_dim], specs[0].shape[specs[0].axis]
    most = size if isinstance(size, int) else dims[size].max if size in dims else None
    if most is not None and held + steps > most:
        raise FeedError(
            f"{steps} steps do not fit: the engine's carried state of at most {most} holds {held} already",
            hint="start a new state, or export with a longer context",
        )
    return steps


def check_rows(batch: int, dims: Mapping[str, DimSpec]) -> int:
    """The number of rows, or a FeedError if no state can be made for so many."""
    dim = dims.get("batch", DimSpec(name="batch"))
    rows = as_integer(batch)
    if rows is None or rows < max(1, dim.min):
        raise FeedError(f"a state for {batch!r} rows", hint=f"must be an integer of at least {max(1, dim.min)}")
    if dim.max is not None and rows > dim.max:
        raise FeedError(f"a state for {rows} rows", hint=f"this engine takes at most {dim.max}")
    return rows


def check_batch(dims: Mapping[str, int], batch: int) -> None:
    """Raise FeedError if the feeds' batch is not the state's."""
    if dims.get("batch", batch) != batch:
        raise FeedError(
            f"the feeds have batch {dims['batch']}, the state was made for {batch}", hint="make a new state"
        )


def require_state(state: object, cls: type, specs: Sequence[StateSpec]) -> None:
    """Raise FeedError unless `state` is given exactly where the engine carries state, and is this back-end's own."""
    if specs and not isinstance(state, cls):
        found = "none was given" if state is None else f"a {type(state).__name__} was given"
        raise FeedError(f"this engine carries state, {found}", hint="pass a state from session.new_state(batch)")
