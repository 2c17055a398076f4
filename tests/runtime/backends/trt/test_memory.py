"""Device memory of carried state: it stays, it doubles, it goes when nobody holds the state."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from aigc_runtime.backends.trt.buffers import DeviceBuffer
from aigc_runtime.errors import EngineError

from .rig import ALIAS, Rig, leaks, lm, lm_feeds
from .simulated_gpu import SimulatedGpu


def live_bytes(gpu: SimulatedGpu) -> int:
    return sum(len(block.data) for block in gpu.blocks.values() if not block.freed)


def test_a_growing_state_is_allocated_a_few_times_and_never_copied() -> None:
    rig = Rig(lm("growing"))
    state = rig.session.new_state(1)
    rig.session.run(lm_feeds([1]), state)
    before = rig.count("cudaMalloc")
    for n in range(31):
        rig.session.run(lm_feeds([n]), state)
    assert rig.count("cudaMalloc") - before <= 8, "twice log2 of 32 steps, less what is there already"
    copied = rig.count("cudaMemcpyAsync")
    rig.session.run(lm_feeds([1]), rig.session.new_state(1))
    assert rig.count("cudaMemcpyAsync") - copied == 4, "three feeds and the logits; the state stays where it is"


def test_memory_never_doubles_beyond_the_longest_state() -> None:
    rig = Rig(lm("growing"))
    state = rig.session.new_state(2)
    for n in range(32):
        rig.session.run(lm_feeds([n], [n]), state)
    assert {len(t.spec.shape) for t in state.tensors} == {4}
    assert max(max(t.past.size, t.present.size) for t in state.tensors) == 2 * 32 * 4


def test_a_buffer_begins_as_zeros_and_is_allocated_once() -> None:
    rig = Rig(lm("buffer"), alias=ALIAS)
    state = rig.session.new_state(2)
    (tensor,) = state.tensors
    assert tensor.past is tensor.present
    assert not rig.gpu.device_memory(tensor.past.address, tensor.past.size, what="state").any()
    address = tensor.past.address
    for n in range(5):
        rig.session.run(lm_feeds([n], [n]), state)
    assert (tensor.past.address, tensor.past.size) == (address, 2 * 32 * 4)
    held = rig.gpu.device_memory(address, tensor.past.size, what="state").view(np.float32).reshape(2, 32)
    np.testing.assert_array_equal(held[0, :6], [0, 1, 2, 3, 4, 0])


def test_an_engine_that_does_not_write_in_place_never_reads_what_it_writes() -> None:
    rig = Rig(lm("buffer"))
    (tensor,) = rig.session.new_state(1).tensors
    assert tensor.past.address != tensor.present.address


@pytest.mark.parametrize("kind", ["growing", "buffer"])
def test_the_memory_of_a_state_that_ended_is_freed_at_the_next_call(kind: str) -> None:
    rig = Rig(lm(kind))
    keep = rig.session.new_state(1)
    rig.session.run(lm_feeds([1, 2, 3]), keep)
    idle = live_bytes(rig.gpu)
    for _ in range(5):
        state = rig.session.new_state(8)
        rig.session.run(lm_feeds(*[[1, 2, 3]] * 8), state)
        del state
        gc.collect()
    rig.session.run(lm_feeds([1, 2, 3]), keep)
    lanes = sum(b.size for b in lane_buffers(rig))
    state_bytes = sum(t.past.size + t.present.size for t in keep.tensors)
    assert live_bytes(rig.gpu) == lanes + state_bytes
    assert live_bytes(rig.gpu) >= idle
    rig.session.close()
    assert leaks(rig.gpu) == []


def lane_buffers(rig: Rig) -> list[DeviceBuffer]:
    with rig.session._resources.pool.lease() as lane:
        return [*lane._device.values(), lane._scratch]


def test_closing_frees_the_states_that_are_still_held() -> None:
    rig = Rig(lm("growing"))
    states = [rig.session.new_state(2) for _ in range(3)]
    for state in states:
        rig.session.run(lm_feeds([1], [2]), state)
    rig.session.close()
    assert leaks(rig.gpu) == []
    del state, states
    gc.collect()
    assert leaks(rig.gpu) == []


def test_a_run_that_fails_leaves_its_state_as_it_was() -> None:
    rig = Rig(lm("growing"), fail_after=2)
    state = rig.session.new_state(1)
    rig.session.run(lm_feeds([7]), state)
    rig.session.run(lm_feeds([8]), state)
    with pytest.raises(EngineError, match="a kernel failed"):
        rig.session.run(lm_feeds([9]), state)
    assert state.length == 2
    rig.plan.fail_after = None
    assert rig.session.run(lm_feeds([9]), state)["logits"][0, -1].argmax() == 24


def test_too_little_memory_is_told_and_what_was_taken_is_given_back() -> None:
    rig = Rig(lm("growing"), gpu=SimulatedGpu(limit=20_000))
    rig.session.run(lm_feeds([1]), rig.session.new_state(1))
    state = rig.session.new_state(8)
    with pytest.raises(EngineError, match=r"(?s)cannot allocate .* bytes on the device.*use fewer rows"):
        rig.session.run(lm_feeds(*[[1] * 20] * 8), state)
    assert state.length == 0
    del state
    gc.collect()
    rig.session.run(lm_feeds([1]), rig.session.new_state(1))
    rig.session.close()
    assert leaks(rig.gpu) == []
