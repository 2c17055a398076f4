"""Every call of CUDA fails once, wherever a session makes it: a typed error each time, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aigc_runtime.backends.trt.cuda import Cuda, CudaError
from aigc_runtime.errors import EngineError

from .rig import ALIAS, UNET, Rig, Toy, leaks, lm, lm_feeds, unet_feeds
from .simulated_gpu import COUNTED, SimulatedGpu, cudaError_t


def images(session: Any) -> None:
    for batch in (2, 2, 2, 4, 4, 4):
        session.run(unet_feeds(batch))


def tokens(session: Any) -> None:
    state = session.new_state(1)
    for n in range(5):
        session.run(lm_feeds([n]), state)


def rows(session: Any) -> None:
    state = session.new_state(1)
    session.run(lm_feeds([1, 2, 3]), state)
    state.select([0, 0])
    state.truncate(2)
    session.run(lm_feeds([7], [8]), state)


WORKS: dict[str, tuple[Toy, dict[str, Any], Callable[[Any], None]]] = {
    "images": (UNET, {}, images),
    "images on rtx": (UNET, {"rtx": True}, images),
    "growing": (lm("growing"), {}, tokens),
    "buffer": (lm("buffer"), {}, tokens),
    "in place": (lm("buffer"), {"alias": ALIAS}, tokens),
    "other rows, growing": (lm("growing"), {}, rows),
    "other rows, in place": (lm("buffer"), {"alias": ALIAS}, rows),
}
FAST_WORKS = ("images", "images on rtx", "growing")
"""Of the others every call fails in a slow test."""


def attempt(name: str, gpu: SimulatedGpu) -> EngineError | None:
    """Open, run, close; returns what went wrong, after closing all the same."""
    toy, plan, work = WORKS[name]
    failure = None
    try:
        rig = Rig(toy, gpu=gpu, **plan)
    except EngineError as err:
        return err.with_traceback(None)
    try:
        work(rig.session)
    except EngineError as err:
        failure = err.with_traceback(None)
        failure.__context__ = None
    try:
        rig.session.close()
    except EngineError as err:
        failure = failure or err.with_traceback(None)
    return failure


@pytest.mark.any_python
@pytest.mark.parametrize(
    "name", [name if name in FAST_WORKS else pytest.param(name, marks=pytest.mark.slow) for name in WORKS]
)
def test_every_call_may_fail(name: str) -> None:
    whole = SimulatedGpu()
    assert attempt(name, whole) is None
    assert leaks(whole) == []
    met = set()
    for call in range(1, len(whole.calls) + 1):
        gpu = SimulatedGpu()
        gpu.fail_at = call
        failure = attempt(name, gpu)
        assert isinstance(failure, CudaError), f"call {call}, {gpu.calls[call - 1]}: {failure!r}"
        assert failure.name == "cudaErrorLaunchFailure"
        assert "start the process again" in failure.hint
        assert leaks(gpu) == [], f"call {call}, {gpu.calls[call - 1]}"
        met.add(gpu.calls[call - 1])
    assert met == set(whole.calls)


@pytest.mark.parametrize("name", WORKS)
def test_a_device_that_is_lost_ends_in_a_typed_error(name: str) -> None:
    whole = SimulatedGpu()
    attempt(name, whole)
    for call in range(1, len(whole.calls) + 1, 3):
        gpu = SimulatedGpu()
        gpu.fail_from = call
        failure = attempt(name, gpu)
        assert isinstance(failure, CudaError), f"call {call}, {gpu.calls[call - 1]}: {failure!r}"
        assert [block for block in gpu.blocks.values() if not block.freed and block.address not in gpu.lost] == []


def test_the_works_make_every_call_there_is() -> None:
    met: set[str] = set()
    for name in WORKS:
        gpu = SimulatedGpu()
        attempt(name, gpu)
        met |= set(gpu.calls)
    assert met == set(COUNTED)


def test_after_a_failure_the_session_goes_on_where_the_device_does() -> None:
    whole = Rig(lm("buffer"))
    tokens(whole.session)
    opened = whole.gpu.calls.index("cudaStreamCreateWithFlags")
    for call in range(opened + 8, len(whole.gpu.calls) + 1):
        rig = Rig(lm("buffer"))
        rig.gpu.fail_at = call
        state, reference = rig.session.new_state(1), lm("buffer").reference()
        expected = reference.new_state(1)
        for n in range(5):
            want = reference.run(lm_feeds([n]), expected)["logits"]
            try:
                got = rig.session.run(lm_feeds([n]), state)["logits"]
            except CudaError:
                got = rig.session.run(lm_feeds([n]), state)["logits"]
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (cudaError_t.cudaErrorMemoryAllocation, "use fewer rows"),
        (cudaError_t.cudaErrorInsufficientDriver, "install a newer NVIDIA driver"),
        (cudaError_t.cudaErrorNoDevice, "export with --target ort-cpu"),
        (cudaError_t.cudaErrorLaunchFailure, "the device's state is lost"),
        (cudaError_t.cudaErrorInvalidValue, "`aigc-run doctor` says what the device has"),
    ],
)
def test_an_error_carries_its_name_and_advice(error: cudaError_t, advice: str) -> None:
    gpu = SimulatedGpu()
    gpu.fail_at, gpu.error = 1, error
    with pytest.raises(CudaError) as caught:
        Cuda(gpu).device_count()
    assert caught.value.exit_code == EngineError.exit_code
    assert str(caught.value).startswith(f"cannot find a CUDA device: {error.name} (simulated {error.name})")
    assert advice in caught.value.hint
