"""How long a thread of ONNX Runtime waits for work before it sleeps.

A decoder's token is some hundred operators of 5 to 50 us. A thread that sleeps between two of them is woken for each,
which took 30 % of a token; one that spins for ONNX Runtime's own milliseconds takes the processor from what else runs
there, and two processes on two cores then take 1.6 times as long. A short spin, and none between runs, has the
gain at a small part of the cost. See docs/adr/0044-short-spins.md.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["SPIN_MICROSECONDS", "spin_shortly"]

SPIN_MICROSECONDS = 20
"""The gain is the same from 10 on, and what a second process loses grows with it (measured: ADR 44)."""

_SINCE = (1, 26)
"""The first version (1.24 is not, 1.25 was not tried) that lets the time be chosen. Before, threads sleep at once."""


def spin_shortly(options: Any, version: str, microseconds: int = SPIN_MICROSECONDS) -> None:
    """Let the threads inside an operator spin for a short time while a run is under way.

    Args:
        options: of a session.
        version: of ONNX Runtime.
        microseconds: for how long; 0 not at all.
    """
    numbers = re.match(r"(\d{1,6})\.(\d{1,6})", version)
    spins = microseconds > 0 and numbers is not None and (int(numbers[1]), int(numbers[2])) >= _SINCE
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    if spins:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(microseconds))
        options.add_session_config_entry("session.force_spinning_stop", "1")
