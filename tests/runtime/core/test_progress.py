"""A progress callback is told of one phase, and can end the work."""

from __future__ import annotations

import pytest

from aigc_runtime.core.progress import phase
from aigc_runtime.errors import CancelledError


def test_a_phase_reports_its_name_its_count_and_its_total() -> None:
    calls: list[tuple[str, int, int]] = []
    report = phase(lambda *call: calls.append(call), "ranges", 48)
    for done in (16, 48):
        report(done)
    assert calls == [("ranges", 16, 48), ("ranges", 48, 48)]


def test_without_a_callback_nothing_is_reported() -> None:
    assert phase(None, "ranges", 48)(16) is None


@pytest.mark.parametrize("answer", [True, None, 0])
def test_only_false_cancels(answer: bool | None) -> None:
    phase(lambda *_: answer, "ranges", 48)(16)
    with pytest.raises(CancelledError, match="ranges: cancelled after 16 of 48"):
        phase(lambda *_: False, "ranges", 48)(16)
