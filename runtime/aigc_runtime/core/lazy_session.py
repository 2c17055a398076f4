"""A session that is opened when it is first run, and gives its memory back when its work is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aigc_runtime.core.interface import Interface
from aigc_runtime.core.session import Session, State
from aigc_runtime.core.tensors import Array

__all__ = ["LazySession"]


class LazySession:
    """Stands for an engine without carried state.

    Args:
        interface: of the engine.
        open_session: opens it; called again for the first run behind each `release`.
    """

    def __init__(self, interface: Interface, open_session: Callable[[], Session]) -> None:
        self.interface = interface
        self._open = open_session
        self._session: Session | None = None
        self._seconds = 0.0

    @property
    def engine_seconds(self) -> float:
        """Wall time spent inside the engine, however often it was opened."""
        return self._seconds + (0.0 if self._session is None else self._session.engine_seconds)

    def new_state(self, batch: int) -> State:
        """Empty carried state; see `Session.new_state`."""
        return self._opened().new_state(batch)

    def run(self, feeds: Mapping[str, Array], state: State | None = None) -> dict[str, Array]:
        """Run one step, opening the engine if it is not; see `Session.run`.

        Raises:
            AigcError: what opening it, or running it, raises.
        """
        return self._opened().run(feeds, state)

    def release(self) -> None:
        """Close the engine until it is run again."""
        session, self._session = self._session, None
        if session is not None:
            self._seconds += session.engine_seconds
            session.close()

    def close(self) -> None:
        """Close the engine."""
        self.release()

    def __enter__(self) -> LazySession:
        """The session, closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _opened(self) -> Session:
        if self._session is None:
            self._session = self._open()
        return self._session
