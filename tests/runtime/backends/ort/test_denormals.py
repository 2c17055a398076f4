"""The engine's way with denormal numbers stays inside the engine.

ONNX Runtime sets a thread's register once in the life of a process, so each case has a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aigc_runtime.backends.ort.denormals import CAN_FLUSH, flushed, isolated

PRELUDE = """
import sys, threading
import numpy as np
from aigc_runtime.opening import open_session
from aigc_runtime.backends.ort.denormals import _FENV, flushed
from aigc_runtime.bundle.bundle import Bundle

def told():
    tiny, half = 1e-310, np.array([1e-40], np.float32)
    return tiny * 0.5 > 0, bool((half * np.float32(0.5))[0] > 0)

def everywhere():
    found = [told()]
    thread = threading.Thread(target=lambda: found.append(told()))
    thread.start(); thread.join()
    return found

def opened(threads):
    return open_session(Bundle.open(sys.argv[1]), threads=threads)

def run(session, value=1e-39):
    zero = np.zeros(1)
    feeds = {"sample": np.full((1, 1, 4, 4), value, np.float32), "timestep": zero.astype(np.float32),
             "class_labels": zero.astype(np.int64)}
    return session.run(feeds)["model_output"]
"""
"""toy_unet gives half of its sample at timestep 0 and class 0."""


def process(code: str, bundle: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, str(bundle)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_opening_and_running_leave_the_callers_arithmetic_alone(toy_bundles: Path) -> None:
    code = """
for threads in (1, 2):
    session = opened(threads)
    assert everywhere() == [(True, True)] * 2, "opened"
    out = run(session)
    assert everywhere() == [(True, True)] * 2, "ran"
    print(float(np.abs(out).max()))
"""
    printed = process(code, toy_bundles / "toy_unet").split()
    assert [float(n) > 0 for n in printed] == [not CAN_FLUSH] * 2  # the engine itself flushes where it can


@pytest.mark.skipif(not CAN_FLUSH, reason="nothing here switches a thread's arithmetic")
def test_a_caller_who_flushes_goes_on_flushing(toy_bundles: Path) -> None:
    code = """
with flushed():
    session = opened(2)
    run(session)
    print(told())
print(told())
"""
    assert process(code, toy_bundles / "toy_unet").splitlines() == ["(False, False)", "(True, True)"]


@pytest.mark.skipif(not CAN_FLUSH, reason="nothing here switches a thread's arithmetic")
def test_the_tests_above_can_fail(toy_bundles: Path) -> None:
    """A session made in the caller's own thread, as the library's own documentation would have it."""
    code = """
import onnxruntime
bundle = Bundle.open(sys.argv[1])
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.set_denormal_as_zero", "1")
onnxruntime.InferenceSession(bundle.read("model.onnx"), options, providers=["CPUExecutionProvider"])
print(everywhere())
"""
    assert process(code, toy_bundles / "toy_unet").strip() == "[(False, False), (False, False)]"


def test_a_failing_run_gives_the_arithmetic_back() -> None:
    tiny, inside = 1e-310, []

    def fail() -> None:
        with flushed():
            inside.append(tiny * 0.5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (inside == [0.0]) is CAN_FLUSH
    assert tiny * 0.5 > 0


def test_an_error_in_a_thread_of_its_own_is_the_callers() -> None:
    assert isolated(lambda: 7) == 7
    with pytest.raises(SystemExit, match="3"):
        isolated(lambda: sys.exit(3))
