"""The simulated device notices what it is there to notice: every fault is made to happen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.backends.trt.cuda import Cuda
from aigc_runtime.backends.trt.graphs import GraphStore
from aigc_runtime.backends.trt.lane import Lane

from ... import toys
from .rig import ALIAS, UNET, Rig, leaks, lm, lm_feeds, unet_feeds
from .simulated_gpu import SimulatedFault, SimulatedGpu
from .simulated_tensorrt import Context, Engine, ExecutionContextAllocationStrategy, ILogger, simulated_tensorrt


@pytest.fixture
def gpu() -> SimulatedGpu:
    gpu = SimulatedGpu()
    gpu.cudaSetDevice(0)
    return gpu


def stream_of(gpu: SimulatedGpu) -> int:
    return int(gpu.cudaStreamCreateWithFlags(1)[1])


def test_copies_wait_for_the_stream(gpu: SimulatedGpu) -> None:
    cuda, stream = Cuda(gpu), stream_of(gpu)
    device, host = cuda.malloc(4), cuda.malloc_host(4)
    gpu.host_memory(host, 4, what="test")[:] = 7
    cuda.to_device(device, host, 4, stream)
    gpu.host_memory(host, 4, what="test")[:] = 9
    assert set(gpu.device_memory(device, 4, what="test")) == {0xCB}
    cuda.synchronize(stream)
    assert set(gpu.device_memory(device, 4, what="test")) == {9}, "staging that was reused too early is what arrives"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda g, c, s: c.to_device(c.malloc_host(4), c.malloc_host(4), 4, s), "no device address"),
        (lambda g, c, s: c.to_device(c.malloc(4), c.malloc(4), 4, s), "no pinned address"),
        (lambda g, c, s: c.to_device(c.malloc(4), np.zeros(4).ctypes.data, 4, s), "no pinned address"),
        (lambda g, c, s: c.to_device(c.malloc(3), c.malloc_host(4), 4, s), "4 bytes at 0 of a block of 3"),
        (lambda g, c, s: c.fill_zero(freed(c), 4, s), "use of freed device memory"),
        (lambda g, c, s: c.free(freed(c)), "freed twice"),
        (lambda g, c, s: c.free_host(12345), "freed twice, or never"),
        (lambda g, c, s: c.malloc(0), "an allocation of no bytes"),
        (lambda g, c, s: free_in_use(c, s), "freed while queued work uses it"),
        (lambda g, c, s: c.synchronize(s + 1), "never was one"),
        (lambda g, c, s: (c.begin_capture(s), c.malloc(1)), "during a capture"),
        (lambda g, c, s: (c.begin_capture(s), c.begin_capture(s)), "a capture within a capture"),
        (lambda g, c, s: (c.fill_zero(c.malloc(4), 4, s), c.destroy_stream(s)), "destroyed with work in its queue"),
        (lambda g, c, s: twice(c, s), "a graph is destroyed twice"),
        (lambda g, c, s: launch_dead(c, s), "a graph is launched that was destroyed"),
        (lambda g, c, s: stale(c, s), "use of freed device memory"),
        (lambda g, c, s: g.cudaStreamCreateWithFlags(0), "waits for the default stream"),
    ],
)
def test_faults_of_the_device(gpu: SimulatedGpu, wrong: Callable[..., Any], message: str) -> None:
    stream = stream_of(gpu)
    with pytest.raises(SimulatedFault, match=message):  # noqa: PT012 - the fault may come with the queue
        wrong(gpu, Cuda(gpu), stream)
        gpu.cudaStreamSynchronize(stream)


def freed(cuda: Cuda) -> int:
    address = cuda.malloc(4)
    cuda.free(address)
    return address


def free_in_use(cuda: Cuda, stream: int) -> None:
    address = cuda.malloc(4)
    cuda.fill_zero(address, 4, stream)
    cuda.free(address)


def graph_of(cuda: Cuda, stream: int, address: int) -> Any:
    cuda.begin_capture(stream)
    cuda.fill_zero(address, 4, stream)
    return cuda.instantiate(cuda.end_capture(stream))


def twice(cuda: Cuda, stream: int) -> None:
    graph = graph_of(cuda, stream, cuda.malloc(4))
    cuda.destroy_graph(graph)
    cuda.destroy_graph(graph)


def launch_dead(cuda: Cuda, stream: int) -> None:
    graph = graph_of(cuda, stream, cuda.malloc(4))
    cuda.destroy_graph(graph)
    cuda.launch(graph, stream)


def stale(cuda: Cuda, stream: int) -> None:
    address = cuda.malloc(4)
    graph = graph_of(cuda, stream, address)
    cuda.free(address)
    cuda.launch(graph, stream)


def test_what_is_not_given_back_is_listed(gpu: SimulatedGpu) -> None:
    cuda, stream = Cuda(gpu), stream_of(gpu)
    assert leaks(gpu) == ["a stream"]
    address = cuda.malloc(8)
    cuda.malloc_host(4)
    graph_of(cuda, stream, address)
    assert sorted(leaks(gpu)) == ["4 bytes pinned", "8 bytes", "a graph", "a stream"]
    cuda.free(address)
    assert "8 bytes" not in leaks(gpu)


def test_a_thread_chooses_its_device() -> None:
    with pytest.raises(SimulatedFault, match="has chosen no device"):
        SimulatedGpu().cudaMalloc(1)
    gpu = SimulatedGpu(devices=2)
    gpu.cudaSetDevice(1)
    stream = stream_of(gpu)
    gpu.cudaSetDevice(0)
    with pytest.raises(SimulatedFault, match="a stream of another device"):
        gpu.cudaStreamSynchronize(stream)


# -- the simulated library ------------------------------------------------------------------------------------------


def context_of(gpu: SimulatedGpu, **plan: Any) -> tuple[Context, int]:
    """A context of the UNet with shapes and addresses set."""
    engine = Engine(gpu, UNET.plan(**plan), lambda text: None)
    context, stream = engine.create_execution_context(), stream_of(gpu)
    assert context is not None
    for name, shape in (("sample", (1, 1, 4, 4)), ("timestep", (1,)), ("class_labels", (1,))):
        assert context.set_input_shape(name, shape)
        context.set_tensor_address(name, Cuda(gpu).malloc(64))
    context.set_tensor_address("model_output", Cuda(gpu).malloc(64))
    assert context.infer_shapes() == []
    return context, stream


def test_a_context_runs(gpu: SimulatedGpu) -> None:
    context, stream = context_of(gpu)
    assert context.execute_async_v3(stream)
    gpu.cudaStreamSynchronize(stream)


def change_profile(context: Context, gpu: SimulatedGpu, stream: int) -> None:
    context.set_optimization_profile_async(0, stream)
    context.execute_async_v3(stream)


def change_address_early(context: Context, gpu: SimulatedGpu, stream: int) -> None:
    context.execute_async_v3(stream)
    context.set_tensor_address("model_output", Cuda(gpu).malloc(64))


def capture_cold(context: Context, gpu: SimulatedGpu, stream: int) -> None:
    Cuda(gpu).begin_capture(stream)
    context.execute_async_v3(stream)


def captured(context: Context, gpu: SimulatedGpu, stream: int) -> Any:
    cuda = Cuda(gpu)
    context.execute_async_v3(stream)
    cuda.synchronize(stream)
    cuda.begin_capture(stream)
    context.execute_async_v3(stream)
    return cuda.instantiate(cuda.end_capture(stream))


def use_captured(context: Context, gpu: SimulatedGpu, stream: int) -> None:
    captured(context, gpu, stream)
    context.execute_async_v3(stream)


def change_captured(context: Context, gpu: SimulatedGpu, stream: int) -> None:
    graph = captured(context, gpu, stream)
    context.set_input_shape("timestep", (2,))
    Cuda(gpu).launch(graph, stream)


def small_output(context: Context, gpu: SimulatedGpu, stream: int) -> None:
    context.set_tensor_address("model_output", Cuda(gpu).malloc(63))
    context.execute_async_v3(stream)


def over_input(context: Context, gpu: SimulatedGpu, stream: int) -> None:
    context.set_tensor_address("model_output", context._addresses["sample"])
    context.execute_async_v3(stream)


def give_memory(context: Context, gpu: SimulatedGpu, stream: int) -> None:
    context.set_device_memory(Cuda(gpu).malloc(1024), 1024)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (change_profile, "shapes were not inferred"),
        (change_address_early, "context has changed since"),
        (capture_cold, "a capture without a run before it"),
        (use_captured, "used again that a graph was captured from"),
        (change_captured, "whose context has changed"),
        (small_output, "64 bytes at 0 of a block of 63"),
        (over_input, "model_output is written over sample"),
        (give_memory, "a context that has its own"),
    ],
)
def test_faults_of_the_library(gpu: SimulatedGpu, wrong: Callable[..., None], message: str) -> None:
    context, stream = context_of(gpu)
    with pytest.raises(SimulatedFault, match=message):  # noqa: PT012 - the fault may come with the queue
        wrong(context, gpu, stream)
        gpu.cudaStreamSynchronize(stream)


def test_more_faults_of_the_library(gpu: SimulatedGpu) -> None:
    context, stream = context_of(gpu, alias={"model_output": "sample"})
    with pytest.raises(SimulatedFault, match="not written over sample"):
        context.execute_async_v3(stream)
    engine = Engine(gpu, UNET.plan(), lambda text: None)
    bare = engine.create_execution_context(ExecutionContextAllocationStrategy.USER_MANAGED)
    assert bare is not None
    with pytest.raises(SimulatedFault, match="shapes were not inferred"):
        bare.execute_async_v3(stream)
    bare._results = {"model_output": (1, 1, 4, 4)}
    with pytest.raises(SimulatedFault, match="without scratch memory"):
        bare.execute_async_v3(stream)
    with pytest.raises(SimulatedFault, match="too small or not aligned"):
        bare.set_device_memory(256, 1)
    assert bare.infer_shapes() == ["sample", "timestep", "class_labels"]
    assert not bare.set_input_shape("timestep", (9,))
    assert not bare.set_tensor_address("timestep", 0)
    assert not bare.set_optimization_profile_async(1, stream)
    with pytest.raises(SimulatedFault, match="a Runtime without a device"):
        simulated_tensorrt(SimulatedGpu(devices=0), {}).Runtime(ILogger())
    with pytest.raises(SimulatedFault, match="whose context is gone"):
        forgotten(gpu)


def forgotten(gpu: SimulatedGpu) -> None:
    context, stream = context_of(gpu)
    context.execute_async_v3(stream)
    del context
    gpu.cudaStreamSynchronize(stream)


# -- a session with one thing left out is noticed --------------------------------------------------------------------


def test_a_session_that_does_not_wait_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, feeds = Rig(UNET), unet_feeds(1)
    with monkeypatch.context() as patch:
        patch.setattr(Cuda, "synchronize", lambda self, stream: None)
        got = rig.session.run(feeds)["model_output"]
    assert not np.array_equal(got, toys.unet_function(feeds)["model_output"])
    rig.session.run(feeds)
    rig.session.close()


def test_graphs_that_outlive_their_buffers_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GraphStore, "clear", lambda self: None)
    rig = Rig(UNET, gpu=SimulatedGpu(reuse_addresses=True))
    for _ in range(3):
        rig.session.run(unet_feeds(2))
    rig.session.close()
    assert "a graph" in leaks(rig.gpu)


def test_graphs_that_ignore_addresses_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    launch, wants, capture = GraphStore.launch, GraphStore.wants, GraphStore.capture
    monkeypatch.setattr(GraphStore, "launch", lambda self, key: launch(self, key[0]))
    monkeypatch.setattr(GraphStore, "wants", lambda self, key: wants(self, key[0]))
    monkeypatch.setattr(GraphStore, "capture", lambda self, key, run: capture(self, key[0], run))
    rig, reference = Rig(lm("buffer")), lm("buffer").reference()
    state, expected = rig.session.new_state(1), reference.new_state(1)
    same = True
    for n in range(1, 8):
        got, want = rig.session.run(lm_feeds([n]), state), reference.run(lm_feeds([n]), expected)
        same &= np.array_equal(got["logits"], want["logits"])
    assert not same


def test_a_buffer_that_is_not_cleared_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lane, "clear", lambda self, address, size: None)
    held = replace(lm("buffer"), function=lambda v: {**toys.lm_function(v), "logits": total(v)})
    rig, reference = Rig(held, alias=ALIAS), held.reference()
    got = rig.session.run(lm_feeds([1]), rig.session.new_state(1))["logits"]
    assert not np.array_equal(got, reference.run(lm_feeds([1]), reference.new_state(1))["logits"])


def total(values: Any) -> np.ndarray:
    """A formula that looks at the whole buffer."""
    result: np.ndarray = toys.lm_function(values)["logits"] + values["past_value_0"].sum()
    return result


def test_one_lane_for_two_threads_is_noticed() -> None:
    gpu = SimulatedGpu()
    gpu.cudaSetDevice(0)
    context, stream = context_of(gpu)
    context._busy.acquire()
    with pytest.raises(SimulatedFault, match="one context in two threads"):
        context.execute_async_v3(stream)
