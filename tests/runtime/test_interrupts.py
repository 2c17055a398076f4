"""An interruption is recognised through what libraries make of it, and comes back when it was dropped."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import weakref
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from aigc_runtime import entry
from aigc_runtime.errors import EngineError
from aigc_runtime.interrupts import Interrupted, check_interrupted, handled_signals, interrupt_code, interrupted_by


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Those of the test run, put back: a program would end here."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.getsignal(n) for n in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    with handled_signals():
        pass
    for number, handler in before.items():
        signal.signal(number, handler)


def given(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(5)


def test_a_signal_raises_where_the_program_stands() -> None:
    with pytest.raises(Interrupted), handled_signals():
        given(signal.SIGTERM)
    assert interrupt_code() == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_what_a_library_made_of_it() -> None:
    def failing() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as err:
            raise ImportError("numpy failed to import") from err

    with pytest.raises(ImportError) as caught:
        failing()
    assert interrupted_by(caught.value)
    assert not interrupted_by(ImportError("no module named numpy"))


def test_the_code_of_a_failure_after_a_signal(capsys: pytest.CaptureFixture[str]) -> None:
    def run(_arguments: list[str]) -> int:
        with contextlib.suppress(KeyboardInterrupt):  # a library drops it, and fails for it later
            given(signal.SIGINT)
        return entry.failure_code(EngineError("the engine gave nothing"))

    assert entry.run_program(run, []) == 130
    assert capsys.readouterr().err.endswith("error: interrupted\n")


def test_a_dropped_one_is_told_at_the_next_stage() -> None:
    check_interrupted()
    with handled_signals():
        with contextlib.suppress(KeyboardInterrupt):
            given(signal.SIGINT)
        with pytest.raises(Interrupted):
            check_interrupted()


def test_one_that_a_callback_drops_comes_again() -> None:
    """Python drops what a callback of a weak reference raises."""

    class Thing:
        pass

    def interrupted(_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _number in range(10**6):
            pass

    things = [Thing()]
    reference = weakref.ref(things[0], interrupted)

    def drop() -> None:
        things.clear()
        time.sleep(5)

    with pytest.raises(Interrupted), handled_signals():
        drop()
    assert reference() is None


def test_the_import_of_torch_is_not_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's start calls Python from C++, which aborts where that raises."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("from torch import part\nwhole = True\n")
    (tmp_path / "torch" / "part.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)

    def load() -> None:
        seen.append(import_module("torch").whole)
        time.sleep(5)

    seen: list[bool] = []
    try:
        with pytest.raises(Interrupted), handled_signals():
            load()
        assert sys.modules["torch"].whole is True
        assert interrupt_code() == 130
    finally:
        for name in ("torch", "torch.part"):
            sys.modules.pop(name, None)
