"""Record what a graph is fed while a pipeline runs over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from aigc_calibration.onnx_function import Feeds
from aigc_runtime.core.session import Session, State
from aigc_runtime.core.tensors import Array

__all__ = ["Recorder"]


class _NotRunError(Exception):
    """Ends a run whose results nothing needs."""


class Recorder:
    """Wraps a function of all graph inputs, and calls it with copies of its feeds, which it keeps."""

    def __init__(self, run: Callable[[Feeds], dict[str, Array]]) -> None:
        self.run = run
        self.records: list[dict[str, Array]] = []
        self._runs = True

    def __call__(self, feeds: Feeds) -> Mapping[str, Array]:
        """Run the function on copies, and keep them."""
        self.records.append({name: np.array(value) for name, value in feeds.items()})
        if not self._runs:
            raise _NotRunError
        return self.run(self.records[-1])

    def record_last(self, session: Session, feeds: Feeds, state: State | None = None) -> None:
        """Record the last run of a session over this function, without running it: nothing needs its results.

        Args:
            session: which calls this recorder, and checks what it is fed.
            feeds: of the session.
            state: which is not advanced.
        """
        self._runs = False
        try:
            session.run(feeds, state)
        except _NotRunError:
            pass
        finally:
            self._runs = True

    def take(self) -> list[dict[str, Array]]:
        """Return the feeds recorded since the last call."""
        records, self.records = self.records, []
        return records
