"""Threads spin for a short time, where ONNX Runtime lets it be chosen, and never between runs."""

from __future__ import annotations

import onnxruntime as ort
import pytest

from aigc_runtime.backends.ort import open as opening
from aigc_runtime.backends.ort.spinning import SPIN_MICROSECONDS, spin_shortly

ALLOWED = "session.intra_op.allow_spinning"
DURATION = "session.intra_op.spin_duration_us"
STOPPED = "session.force_spinning_stop"


def entries(options: ort.SessionOptions) -> dict[str, str]:
    """What was set of the three; one that was not set is missing."""
    found = {}
    for name in (ALLOWED, DURATION, STOPPED):
        try:
            found[name] = options.get_session_config_entry(name)
        except RuntimeError:
            continue
    return found


@pytest.mark.parametrize("version", ["1.26.0", "1.32.0", "2.0.1", "1.27.0.dev20260101"])
def test_the_time_is_chosen_where_it_can_be(version: str) -> None:
    options = ort.SessionOptions()

    spin_shortly(options, version)

    assert entries(options) == {ALLOWED: "1", DURATION: str(SPIN_MICROSECONDS), STOPPED: "1"}


@pytest.mark.parametrize("version", ["1.22.1", "1.24.4", "", "unknown"])
def test_threads_sleep_at_once_where_they_would_spin_for_milliseconds(version: str) -> None:
    options = ort.SessionOptions()

    spin_shortly(options, version)

    assert entries(options) == {ALLOWED: "0"}


def test_no_time_is_no_spin() -> None:
    options = ort.SessionOptions()

    spin_shortly(options, "1.32.0", 0)

    assert entries(options) == {ALLOWED: "0"}


def test_every_session_is_opened_so() -> None:
    options = ort.SessionOptions()
    spin_shortly(options, ort.__version__)  # older versions, which older Pythons have, cannot choose

    assert entries(opening._options(ort, None, 2)) == entries(options)
