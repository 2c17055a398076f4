"""What back-ends share about carried state: how many steps it holds, and whether a run fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aigc_runtime.errors import FeedError
from aigc_runtime.tensors import StateSpec

__all__ = ["check_batch", "new_steps", "require_state"]


def new_steps(specs: Sequence[StateSpec], dims: Mapping[str, int], held: int) -> int:
    """How many steps a run adds; refuses a run that does not fit into a buffer.

    Args:
        specs: the carried state, not empty.
        dims: sizes of the feeds' named dimensions.
        held: steps held so far.

    Raises:
        FeedError: the buffer is too small.
    """
    steps = dims[specs[0].step_dim]
    capacity = specs[0].capacity
    if capacity is not None and held + steps > capacity:
        raise FeedError(
            f"{steps} steps do not fit: the engine's buffer of {capacity} holds {held} already",
            hint="start a new state, or export with a longer context",
        )
    return steps


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
