"""An interruption is recognized through what libraries make of it, and comes back when it was dropped."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from aigc_runtime.cli import entry
from aigc_runtime.errors import EngineError
from aigc_runtime.io.publish import atomic_directory, atomic_file
from aigc_runtime.system import interrupts
from aigc_runtime.system.interrupts import (
    Interrupted,
    check_interrupted,
    first_interrupt_asks,
    handled_signals,
    interrupt_code,
    interrupted_by,
    interrupts_held,
    was_interrupted,
)
from aigc_runtime.system.temporary_folder import temporary_folder


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
    assert interrupt_code(Interrupted()) == 143
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
        assert interrupt_code(Interrupted()) == 130
    finally:
        for name in ("torch", "torch.part"):
            sys.modules.pop(name, None)


def pause() -> None:
    for _ in range(100):
        time.sleep(0.001)


MODES = """
import contextlib, os, signal, time
stack = []

def pop():
    mode = stack.pop()
    {0}
    return mode

@contextlib.contextmanager
def without_mode():
    mode = pop()
    {1}
    try:
        yield
    finally:
        {2}
        stack.append(mode)

class Mode:
    def __enter__(self):
        stack.append(self)
        {3}

    def __exit__(self, *of):
        {4}
        stack.pop()
"""


@pytest.mark.parametrize("at", [pytest.param(n, marks=pytest.mark.slow) if n in (2, 4) else n for n in range(5)])
def test_a_mode_of_torch_is_taken_and_given_back_whole(at: int) -> None:
    """Each place between the change of the stack and the statement that undoes it; the body itself is broken off."""
    signals = ["os.kill(os.getpid(), signal.SIGHUP); time.sleep(0.005)" if k == at else "pass" for k in range(5)]
    module: dict[str, Any] = {"__name__": "torch.utils._modes"}
    exec(MODES.format(*signals), module)

    def within_modes() -> None:
        with module["Mode"](), module["without_mode"]():
            assert len(module["stack"]) == 0
            time.sleep(5)
        time.sleep(5)

    with pytest.raises(Interrupted), handled_signals():
        within_modes()
    assert module["stack"] == []


def test_a_context_of_others_is_broken_off_at_once() -> None:
    """The negative: the same class of another package."""
    module: dict[str, Any] = {"__name__": "other"}
    exec(MODES.format(*["pass"] * 3, "os.kill(os.getpid(), signal.SIGHUP); time.sleep(5)", "pass"), module)
    with pytest.raises(Interrupted), handled_signals(), module["Mode"]():
        pass
    assert len(module["stack"]) == 1


def test_signals_at_once_are_one() -> None:
    """A terminal that closes sends SIGHUP, and its shell another, perhaps SIGTERM: what is being cleaned up goes on."""
    cleaned = []

    def work() -> None:
        try:
            given(signal.SIGTERM)
        finally:
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
                pause()
            cleaned.append(True)

    with pytest.raises(Interrupted), handled_signals():
        work()
    assert (cleaned, interrupt_code(Interrupted())) == ([True], 143)


def test_a_later_one_breaks_off_the_cleaning_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "SAME_SECONDS", 0.0)
    cleaned = []

    def work() -> None:
        try:
            given(signal.SIGTERM)
        finally:
            given(signal.SIGINT)
            cleaned.append(True)

    with pytest.raises(Interrupted), handled_signals():
        work()
    assert cleaned == []


def test_a_short_block_is_not_broken_off() -> None:
    done = []

    def work() -> None:
        with interrupts_held():
            with interrupts_held():
                os.kill(os.getpid(), signal.SIGINT)
                pause()
            done.append("inner")
            pause()
            done.append("outer")
        time.sleep(5)
        done.append("after")

    with pytest.raises(Interrupted), handled_signals():
        work()
    assert done == ["inner", "outer"]


@pytest.mark.parametrize("what", ["directory", "file", "folder"])
def test_nothing_is_left_by_a_signal_while_it_is_removed(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst case: a second signal, well after the first, in the middle of removing what was begun."""
    monkeypatch.setattr(interrupts, "SAME_SECONDS", 0.0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    places: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "directory": lambda: atomic_directory(tmp_path / "out", marker="m"),
        "file": lambda: atomic_file(tmp_path / "out"),
        "folder": lambda: temporary_folder("test"),
    }
    place = places[what]

    unlink = os.unlink

    def removing(*arguments: Any, **named: Any) -> None:
        if armed:
            armed.clear()
            os.kill(os.getpid(), signal.SIGINT)
            pause()
        unlink(*arguments, **named)

    def remove_path(path: Path, missing_ok: bool = False) -> None:
        with contextlib.suppress(*(FileNotFoundError,) if missing_ok else ()):
            removing(path)

    def work() -> None:
        try:
            with place() as opened:
                if isinstance(opened, Path):
                    for number in range(3):
                        (opened / str(number)).touch()
                armed.append(True)
                given(signal.SIGTERM)
        finally:
            pause()

    armed: list[bool] = []
    monkeypatch.setattr(os, "unlink", removing)
    if sys.version_info < (3, 11):  # whose Path keeps the function that it found
        monkeypatch.setattr(Path, "unlink", remove_path)
    with pytest.raises(Interrupted), handled_signals():
        work()
    assert not armed
    assert list(tmp_path.iterdir()) == []


def test_a_signal_of_a_program_that_has_ended_interrupts_nothing_after_it() -> None:
    """Who runs a command line within a program of his own goes on with other work."""
    with pytest.raises(Interrupted), handled_signals():
        given(signal.SIGTERM)
    assert was_interrupted()
    check_interrupted()
    assert not interrupted_by(ValueError("something else"))
    assert interrupt_code(KeyboardInterrupt()) == 130
    with handled_signals():
        assert not was_interrupted()


def test_a_signal_while_the_program_ends_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ignore = signal.signal

    def slow(number: int, handler: object) -> object:
        if handler is signal.SIG_IGN:
            os.kill(os.getpid(), signal.SIGINT)
            pause()
        return ignore(number, handler)  # type: ignore[arg-type]

    def run(_arguments: list[str]) -> int:
        monkeypatch.setattr(signal, "signal", slow)
        return 3

    assert entry.run_program(run, []) == 3


def test_a_first_interrupt_asks_and_a_later_one_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    with handled_signals():
        with first_interrupt_asks() as asked:
            assert not asked()
            for _ in range(3):  # somebody in a hurry
                signal.raise_signal(signal.SIGINT)
            assert asked()
            assert not was_interrupted()
            monkeypatch.setattr(interrupts, "SAME_SECONDS", 0.0)
            with pytest.raises(Interrupted):
                signal.raise_signal(signal.SIGINT)
        with first_interrupt_asks() as asked:
            assert not asked()


def test_an_interrupt_behind_the_block_that_was_asked_to_end_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    with handled_signals():
        with first_interrupt_asks():
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # of somebody in a hurry, whose wish has come true
        assert not was_interrupted()
        monkeypatch.setattr(interrupts, "SAME_SECONDS", 0.0)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


def test_an_interrupt_that_is_ignored_or_comes_to_another_thread_asks_for_nothing() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with first_interrupt_asks() as asked:
        signal.raise_signal(signal.SIGINT)
        assert not asked()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    found: list[bool] = []

    def work() -> None:
        with first_interrupt_asks() as asked:
            found.append(asked() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


def test_another_signal_behind_a_block_that_was_asked_to_end_interrupts_at_once() -> None:
    with handled_signals():
        with first_interrupt_asks():
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
