"""An opened program: the sessions of its engines, the carried state that they share, the files of its pipeline."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from aigc_runtime.core.closing import close_all
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.session import Session, State
from aigc_runtime.core.state import check_length
from aigc_runtime.core.state_kinds import BATCH
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import UnknownNameError

__all__ = ["MAIN_ENGINE", "OpenProgram", "ProgramState", "as_program", "batch_rows"]

MAIN_ENGINE = "model"
"""The engine of a program that has only one, and the role it has in its pipeline."""


_NOTHING: Mapping[str, Any] = MappingProxyType({})


class ProgramState:
    """Carried state of one generation: one handle for each state of the program, made when it is first needed.

    Args:
        batch: rows; None takes as many as the feeds have that first need a handle.
    """

    def __init__(self, batch: int | None = None) -> None:
        self.batch = batch
        self.held: dict[str, State] = {}

    def truncate(self, length: int) -> None:
        """Forget all steps but the first `length` in every state that was made; see `State.truncate`.

        Raises:
            FeedError: one that holds fewer, or cannot forget; all stay as they were.
        """
        for state in self.held.values():
            check_length(state.specs, state.length, length)
        for state in self.held.values():
            state.truncate(length)

    def select(self, rows: Sequence[int]) -> None:
        """Hold these rows in every state that was made; see `State.select`."""
        for state in self.held.values():
            state.select(rows)
        if self.batch is not None:
            self.batch = len(rows)


class OpenProgram:
    """Sessions by the name of their engine. A context manager: closes them all at the end.

    Args:
        sessions: engine -> session, of which one may stand for several engines. The program closes them.
        states: engine -> name of the carried state that it reads and writes; engines of one name share it, and their
            sessions are of one back-end.
        assets: files that the pipeline reads when it is made, such as a tokenizer: name -> content. None where only
            the interfaces of the engines are known, and nothing is run.
        on_cpu: whether all engines run on the processor, where long inputs are read faster piece by piece.
    """

    def __init__(
        self,
        sessions: Mapping[str, Session],
        states: Mapping[str, str] = _NOTHING,
        assets: Mapping[str, bytes] | None = _NOTHING,
        *,
        on_cpu: bool = True,
    ) -> None:
        self.on_cpu = on_cpu
        self.sessions = MappingProxyType(dict(sessions))
        self.states = MappingProxyType(dict(states))
        self.assets = assets

    def session(self, engine: str) -> Session:
        """The session of an engine.

        Raises:
            UnknownNameError: no such engine.
        """
        if engine not in self.sessions:
            raise UnknownNameError("engine", engine, self.sessions)
        return self.sessions[engine]

    def new_state(self, batch: int | None = None) -> ProgramState:
        """Empty carried state of all engines, for `batch` rows, or for as many as the first feeds have."""
        return ProgramState(batch)

    def run(self, engine: str, feeds: Mapping[str, Array], state: ProgramState) -> dict[str, Array]:
        """Run one step of an engine, advancing its carried state in place.

        Raises:
            UnknownNameError: no such engine.
            FeedError: a wrong feed, a full buffer, or a number of rows that the engine does not take.
            EngineError: the engine failed.
        """
        session = self.session(engine)
        if not session.interface.state:
            return session.run(feeds)
        # An engine whose state has no name shares it with no other.
        name = self.states.get(engine, f"of {engine}")
        if name not in state.held:
            batch = batch_rows(session.interface, feeds) if state.batch is None else state.batch
            state.held[name] = session.new_state(batch)
        return session.run(feeds, state.held[name])

    def release(self, engine: str) -> None:
        """Say that an engine has done its work for now: one that was opened on demand gives its memory back."""
        release = getattr(self.session(engine), "release", None)
        if release is not None:
            release()

    @property
    def engine_seconds(self) -> float:
        """Wall time spent inside all engines since the program was opened."""
        return sum(session.engine_seconds for session in self._different())

    def close(self) -> None:
        """Close every session, whatever one of them raises."""
        close_all(session.close for session in self._different())

    def _different(self) -> Collection[Session]:
        return {id(session): session for session in self.sessions.values()}.values()

    def __enter__(self) -> OpenProgram:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def as_program(engines: OpenProgram | Session) -> OpenProgram:
    """A program as it is; a session as the program of one engine that it is."""
    return engines if isinstance(engines, OpenProgram) else OpenProgram({MAIN_ENGINE: engines})


def batch_rows(interface: Interface, feeds: Mapping[str, Array]) -> int:
    """The number of rows that feeds are for, their size along `batch`; 1 where no input has it."""
    for spec in interface.inputs:
        shape = getattr(feeds.get(spec.name), "shape", ())
        for size, found in zip(spec.shape, shape, strict=False):
            if size == BATCH:
                return int(found)
    return 1
