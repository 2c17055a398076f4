"""The calls of the CUDA runtime on a real device, without TensorRT: memory, streams, graphs."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_runtime.backends.trt.buffers import DeviceBuffer, HostBuffer
from aigc_runtime.backends.trt.cuda import Cuda, CudaError, load_cuda
from aigc_runtime.device.probe import Gpu

from .conftest import require_package

pytestmark = pytest.mark.gpu


@pytest.fixture
def cuda(gpu: Gpu) -> Cuda:
    require_package("cuda.bindings.runtime", "pip install cuda-bindings")
    found = load_cuda()
    assert found.device_count() >= 1
    found.use()
    return found


def test_arrays_go_to_the_device_and_come_back(cuda: Cuda) -> None:
    stream = cuda.create_stream()
    host, back, device = HostBuffer(cuda), HostBuffer(cuda), DeviceBuffer(cuda)
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    for buffer in (host, back, device):
        buffer.require(values.nbytes)
    host.view((3, 4), "float32")[...] = values
    cuda.to_device(device.address, host.address, values.nbytes, stream)
    cuda.to_host(back.address, device.address, values.nbytes, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(back.view((3, 4), "float32"), values)
    cuda.fill_zero(device.address, 16, stream)
    cuda.to_host(back.address, device.address, values.nbytes, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(back.view((3, 4), "float32")[0], np.zeros(4))
    for buffer in (host, back, device):
        buffer.close()
    cuda.destroy_stream(stream)


def test_a_graph_replays_what_was_queued(cuda: Cuda) -> None:
    stream = cuda.create_stream()
    host, back, device = HostBuffer(cuda), HostBuffer(cuda), DeviceBuffer(cuda)
    for buffer in (host, back, device):
        buffer.require(4)
    cuda.begin_capture(stream)
    cuda.to_device(device.address, host.address, 4, stream)
    cuda.to_host(back.address, device.address, 4, stream)
    graph = cuda.instantiate(cuda.end_capture(stream))
    for value in (3, 7):
        host.view((1,), "int32")[0] = value
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        assert back.view((1,), "int32")[0] == value
    cuda.destroy_graph(graph)
    for buffer in (host, back, device):
        buffer.close()
    cuda.destroy_stream(stream)


def test_memory_that_no_device_has_is_a_typed_error(cuda: Cuda) -> None:
    with pytest.raises(CudaError, match=r"cannot allocate .* bytes on the device: cudaErrorMemoryAllocation") as caught:
        cuda.malloc(2**50)
    assert "use fewer rows" in caught.value.hint
    device = DeviceBuffer(cuda)
    device.require(1)  # and the device goes on
    device.close()


def test_a_capture_that_synchronizes_says_so_and_the_stream_goes_on(cuda: Cuda) -> None:
    stream = cuda.create_stream()
    cuda.begin_capture(stream)
    with pytest.raises(CudaError, match="cudaErrorStreamCapture"):
        cuda.synchronize(stream)
    with pytest.raises(CudaError, match="cudaErrorStreamCapture"):
        cuda.end_capture(stream)
    cuda.synchronize(stream)
    cuda.destroy_stream(stream)
