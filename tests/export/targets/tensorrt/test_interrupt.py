"""Ctrl-C and other exceptions within a build: never lost in a callback, and nothing is left."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aigc_export.errors import GraphRefusedError
from aigc_export.targets.tensorrt import write as trt_write
from aigc_export.targets.tensorrt.library import Library
from aigc_export.targets.tensorrt.log import Log
from aigc_export.targets.tensorrt.progress import Watch
from aigc_runtime.errors import CancelledError, EngineError, OutputError

from .conftest import build
from .fake_trt import PLAN, FakeTensorRT


def left(source: Path) -> list[str]:
    return sorted(p.name for p in source.parent.iterdir())


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def once(function: Callable[[], object], *, at: int = 0) -> Callable[[], None]:
    """The function, at the call of that number only."""
    calls = iter(range(1 << 30))

    def call() -> None:
        if next(calls) == at:
            function()

    return call


@pytest.fixture(autouse=True)
def _python_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


PLACES = [("log", 0), ("log", 1), ("build", 0), ("step", 0), ("step", 7)]


@pytest.mark.parametrize(
    ("place", "at", "streams"), [*((*p, s) for p in PLACES for s in (True, False)), ("write", 0, True)]
)
def test_ctrl_c_within_a_callback(conv: Path, place: str, at: int, streams: bool) -> None:
    fake = FakeTensorRT(on={place: once(ctrl_c, at=at)}, streams=streams)
    with pytest.raises(KeyboardInterrupt):
        build(fake.library, conv)
    assert left(conv) == ["graph.onnx"]
    # The library is told to stop at its next step, where it still has one.
    assert fake.steps == {("log", 0): 0, ("log", 1): 0, ("write", 0): 10, ("step", 7): 7}.get((place, at), 1)


def test_the_bindings_would_lose_it(conv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "_deferred_interrupt", lambda self: contextlib.nullcontext())
    build(FakeTensorRT(on={"log": once(ctrl_c, at=1)}).library, conv)
    assert left(conv) == ["graph.onnx", "out.engine"]


def test_an_interrupt_comes_before_the_failure_that_it_led_to(conv: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(FakeTensorRT(on={"build": ctrl_c}, builds=False).library, conv)
    with pytest.raises(GraphRefusedError):
        build(FakeTensorRT(builds=False).library, conv)


def test_a_handler_of_the_callers_own_decides(conv: Path) -> None:
    heard: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    build(FakeTensorRT(on={"log": once(ctrl_c, at=2)}).library, conv)
    assert heard == [signal.SIGINT]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    build(FakeTensorRT(on={"log": once(ctrl_c, at=2)}).library, conv)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_another_thread_leaves_signals_alone(conv: Path) -> None:
    seen: list[Any] = []
    fake = FakeTensorRT(on={"build": lambda: seen.append(signal.getsignal(signal.SIGINT))})
    thread = threading.Thread(target=lambda: build(fake.library, conv))
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
    assert "out.engine" in left(conv)


# Exceptions of other kinds


def test_a_message_that_cannot_be_kept(conv: Path) -> None:
    class Full(list[Any]):
        def append(self, message: Any) -> None:
            raise MemoryError

    fake = FakeTensorRT()
    _, log = fake.library.logger()
    log.messages = Full()
    with pytest.raises(MemoryError):
        build(fake.library, conv)
    assert left(conv) == ["graph.onnx"]


def test_a_write_that_fails_otherwise_than_by_the_disk(conv: Path) -> None:
    with pytest.raises(TypeError, match="bytes-like"):
        build(FakeTensorRT(chunks=(PLAN, "text")).library, conv)
    assert left(conv) == ["graph.onnx"]


def test_the_first_failure_counts(conv: Path) -> None:
    def fail(*_: object) -> bool:
        raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        build(FakeTensorRT(chunks=("text",), on={"write": ctrl_c}).library, conv, progress=fail)
    with pytest.raises(CancelledError):
        build(FakeTensorRT().library, conv, progress=lambda *_: False)


@pytest.mark.parametrize("streams", [True, False])
def test_an_engine_of_no_bytes(conv: Path, streams: bool) -> None:
    with pytest.raises(EngineError, match="gave no byte of it"):
        build(FakeTensorRT(chunks=(), streams=streams).library, conv)
    assert left(conv) == ["graph.onnx"]


def test_a_file_shorter_than_the_engine(conv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            self.file.write(data[:10])
            return len(data)

    stream: Any = trt_write._stream
    monkeypatch.setattr(trt_write, "_stream", lambda module, file, *rest: stream(module, Short(file), *rest))
    with pytest.raises(OutputError, match=r"has 4,000 bytes, 10 of them were written"):
        build(FakeTensorRT().library, conv)
    assert left(conv) == ["graph.onnx"]


# The library itself


@pytest.mark.parametrize("at", [0, 3, 20, -1])
def test_ctrl_c_while_the_library_speaks(rtx: Library, conv: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hear, spoken = Log.hear, itertools.count()

    def heard(log: Log, severity: Any, text: str) -> None:
        if next(spoken) == at or (at < 0 and text.startswith("Layers:")):
            ctrl_c()
        hear(log, severity, text)

    monkeypatch.setattr(Log, "hear", heard)
    with pytest.raises(KeyboardInterrupt):
        build(rtx, conv)
    assert left(conv) == ["graph.onnx"]


@pytest.mark.slow
def test_ctrl_c_on_the_command_line(rtx: Library, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from aigc_export.cli import main; main()", "export", "gan", "-o", "out"]
    command += ["--target", "tensorrt-rtx", "--compute-capability", "8.6", "--quality-samples", "0"]
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("fold-batch-norm") for line in process.stdout)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate()
    assert (process.returncode, told.splitlines()[-1]) == (130, "error: interrupted; nothing was published")
    assert [p.name for p in tmp_path.iterdir()] == ["tmp"]
    assert list((tmp_path / "tmp").glob("*aigc*")) == []
