"""The seam between pipelines and engines: a `Session` runs feeds and keeps carried state out of sight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, StateSpec

__all__ = ["Session", "State"]


class State(Protocol):
    """Carried state of one generation (a KV cache, a hidden state), owned by the session that made it.

    A pipeline holds the handle and hands it back; it never looks inside.
    """

    @property
    def specs(self) -> tuple[StateSpec, ...]:
        """Its tensors."""
        ...

    @property
    def length(self) -> int:
        """Steps (tokens) taken so far, those that fell out of a window included; 0 where the state has no steps."""
        ...

    def truncate(self, length: int) -> None:
        """Forget all steps but the first `length`.

        Raises:
            FeedError: more steps than are held, or a tensor of a kind that cannot forget: `window`, `recurrent`.
            EngineError: the engine's device failed.
        """
        ...

    def select(self, rows: Sequence[int]) -> None:
        """Hold these rows of the batch, in this order; one may be taken several times, and their number may change.

        Raises:
            FeedError: no row, or one that is not there.
            EngineError: the engine's device failed.
        """
        ...


class Session(Protocol):
    """A loaded engine. Safe to call from several threads as long as each has its own `State`.

    A context manager: `with open_session(bundle) as session` closes it at the end.
    """

    @property
    def interface(self) -> Interface:
        """What the engine takes and gives. The caller feeds `inputs` and gets `outputs`; state is carried inside."""
        ...

    @property
    def engine_seconds(self) -> float:
        """Wall time spent inside the engine since the session was opened; the rest of `run` is Python around it."""
        ...

    def new_state(self, batch: int) -> State:
        """Empty carried state for `batch` rows. An engine without carried state returns an empty one.

        Raises:
            FeedError: `batch` outside its range.
        """
        ...

    def run(self, feeds: Mapping[str, Array], state: State | None = None) -> dict[str, Array]:
        """Run one step, advancing `state` in place. Returned arrays belong to the caller.

        Raises:
            FeedError: a wrong feed, a full buffer, or an engine with carried state run without one.
            EngineError: the engine failed.
        """
        ...

    def close(self) -> None:
        """Release the engine. A closed session raises EngineError."""
        ...

    def __enter__(self) -> Session:
        """The session, closed at the end of the block."""
        ...

    def __exit__(self, *_: object) -> None:
        """Close it."""
        ...
