"""Alternating timing: which side is slower, whoever the sides are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from aigc_export.line.exporter import ExportResult
from aigc_export.tools.timing import time_side_by_side
from aigc_runtime.core.tensors import Array
from aigc_runtime.opening import open_session

from ..conftest import TINY


class Slow:
    """A session that takes longer."""

    def __init__(self, session: Any, seconds: float) -> None:
        self._session, self._seconds = session, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, feeds: Mapping[str, Array], state: Any = None) -> dict[str, Array]:
        time.sleep(self._seconds)
        result: dict[str, Array] = self._session.run(feeds, state)
        return result


@pytest.mark.parametrize("name", list(TINY))
def test_the_slower_side_is_seen_as_slower(name: str, results: dict[str, ExportResult]) -> None:
    bundle = results[name].bundle
    make: Callable[[float], Any] = lambda seconds: Slow(open_session(bundle, threads=1), seconds)  # noqa: E731
    found = time_side_by_side(make(0.02), make(0.0), bundle.manifest.pipeline.settings, rounds=1, runs=3)
    assert found.reference_ms >= 20
    assert found.speedup > 1.5
    assert found.speedup == pytest.approx(found.reference_ms / found.candidate_ms)
    found = time_side_by_side(make(0.0), make(0.02), bundle.manifest.pipeline.settings, rounds=1, runs=3)
    assert found.speedup < 1 / 1.5
