"""What a carried tensor does is asked of its kind: no source decides by a kind's name, or by the first tensor alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aigc_runtime.core.state_kinds import STATE_KINDS

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "runtime/aigc_runtime",
    "models/aigc_models",
    "calibration/aigc_calibration",
    "export/aigc_export",
    "benchmarks",
)
FORBIDDEN = re.compile(r"\.kind\s*(==|!=|in|not in)\s*\(?\"(" + "|".join(STATE_KINDS) + r")\"|\.state\[0\]")


def faults(text: str) -> list[str]:
    return [match[0] for match in FORBIDDEN.finditer(text)]


def test_no_source_decides_by_the_name_of_a_kind() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): lines
        for source in SOURCES
        for path in (ROOT / source).rglob("*.py")
        if (lines := faults(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "text",
    ['if spec.kind == "growing":', 'spec.kind in ("buffer", "window")', "interface.state[0]"],
)
def test_the_check_can_fail(text: str) -> None:
    assert faults(text)
