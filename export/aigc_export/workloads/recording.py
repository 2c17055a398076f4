"""Record what goes through the sessions of a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session, State
from aigc_runtime.core.tensors import Array

__all__ = ["Record", "RecordingSession", "recorded"]

Record = Callable[[str, Mapping[str, Array], Mapping[str, Array]], None]
"""Called as record(engine, feeds, results) after every run."""


@dataclass(frozen=True)
class RecordingSession:
    """A session whose runs are recorded.

    Attributes:
        engine: its name.
        session: that runs.
        record: called after every run.
    """

    engine: str
    session: Session
    record: Record

    @property
    def interface(self) -> Interface:
        """Of the session."""
        return self.session.interface

    @property
    def engine_seconds(self) -> float:
        """Of the session."""
        return self.session.engine_seconds

    def new_state(self, batch: int) -> State:
        """Make an empty state; see `Session.new_state`."""
        return self.session.new_state(batch)

    def run(self, feeds: Mapping[str, Array], state: State | None = None) -> dict[str, Array]:
        """Run one step and record it; see `Session.run`."""
        results = self.session.run(feeds, state)
        self.record(self.engine, feeds, results)
        return results

    def close(self) -> None:
        """Close the session."""
        self.session.close()

    def __enter__(self) -> RecordingSession:
        """The session, closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def recorded(program: OpenProgram, record: Record) -> OpenProgram:
    """Make a program over the same sessions whose runs are recorded."""
    sessions = {name: RecordingSession(name, session, record) for name, session in program.sessions.items()}
    return OpenProgram(sessions, program.states, program.assets, on_cpu=program.on_cpu)
