"""Sessions are made with attention by whole products, and the environment is left as it was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from aigc_runtime.backends.ort import open as ort_open
from aigc_runtime.backends.ort.attention import SWITCH, whole_attention
from aigc_runtime.backends.ort.denormals import flushed
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.opening import open_session


def test_the_switch_is_set_while_a_session_is_made(toy_bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    seen = list[str | None]()

    def noting() -> Any:
        seen.append(os.environ.get(SWITCH))
        return flushed()

    monkeypatch.setattr(ort_open, "flushed", noting)
    open_session(Bundle.open(toy_bundles / "toy_lm_growing"), threads=1).close()
    assert seen == ["1"]
    assert SWITCH not in os.environ


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    with whole_attention():
        assert os.environ[SWITCH] == "0"
    assert os.environ[SWITCH] == "0"


def test_sessions_that_are_made_at_once_have_it_until_the_last_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    first, second = whole_attention(), whole_attention()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert os.environ[SWITCH] == "1"
    second.__exit__(None, None, None)
    assert SWITCH not in os.environ
