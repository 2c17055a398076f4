"""The few calls of the CUDA runtime that a session makes, each one checked.

`cuda.bindings.runtime` returns a status with every call and raises nothing; here a status other than success becomes an
error with CUDA's own name for it and what to do. Addresses and streams are plain integers, sizes are in bytes.
"""

from __future__ import annotations

import importlib
from typing import Any

from aigc_runtime.backends.trt.requirements import CUDA_BINDINGS, CUDA_BINDINGS_INSTALL
from aigc_runtime.errors import EngineError, EngineMissingError

__all__ = ["Cuda", "CudaError", "load_cuda"]

_LOST = "the device's state is lost: start the process again; if it comes back, the engine or the driver is at fault"
_HINTS = {
    "cudaErrorMemoryAllocation": "use fewer rows or smaller sizes, or end other programs on the device",
    "cudaErrorNoDevice": "`aigc-run doctor` says what this machine has; export with --target ort-cpu for a CPU",
    "cudaErrorInsufficientDriver": "install a newer NVIDIA driver; `aigc-run doctor` says what is there",
    "cudaErrorSystemDriverMismatch": "the driver and its library differ in version: restart the machine",
    "cudaErrorDevicesUnavailable": "another program holds the device for itself: end it",
    "cudaErrorIllegalAddress": _LOST,
    "cudaErrorLaunchFailure": _LOST,
    "cudaErrorHardwareStackError": _LOST,
    "cudaErrorECCUncorrectable": _LOST,
}
"""CUDA's name of an error -> what to do."""
_ANYTHING_ELSE = "`aigc-run doctor` says what the device has; start the process again if it comes back"


class CudaError(EngineError):
    """A call of the CUDA runtime that failed; `name` is CUDA's own, such as `cudaErrorMemoryAllocation`."""

    def __init__(self, action: str, name: str, text: str) -> None:
        super().__init__(f"cannot {action}: {name} ({text})", hint=_HINTS.get(name, _ANYTHING_ELSE))
        self.name = name


def load_cuda(ordinal: int = 0) -> Cuda:
    """The CUDA runtime, for one device.

    Args:
        ordinal: of the device, in the driver's order.

    Raises:
        EngineMissingError: cuda-bindings is not installed or cannot be loaded; the hint is the install line.
    """
    try:
        binding = importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as err:
        raise EngineMissingError(
            f"this engine needs the package {CUDA_BINDINGS}: {err}", hint=CUDA_BINDINGS_INSTALL
        ) from err
    return Cuda(binding, ordinal)


class Cuda:
    """The CUDA runtime on one device.

    Args:
        binding: `cuda.bindings.runtime`.
        ordinal: of the device.

    Every method raises CudaError where CUDA reports a failure.
    """

    def __init__(self, binding: Any, ordinal: int = 0) -> None:
        self._rt = binding
        self.ordinal = ordinal

    def _call(self, action: str, result: tuple[Any, ...]) -> Any:
        """The value of a call, if it has one."""
        status, *values = result
        if int(status) != 0:
            text = self._rt.cudaGetErrorString(status)[1]
            raise CudaError(action, status.name, text.decode() if isinstance(text, bytes) else str(text))
        return values[0] if values else None

    def device_count(self) -> int:
        """How many devices there are. Asked before any library that would crash without one is touched."""
        return int(self._call("find a CUDA device", self._rt.cudaGetDeviceCount()))

    def use(self) -> None:
        """Make this device the calling thread's: CUDA keeps that choice per thread."""
        self._call(f"use CUDA device {self.ordinal}", self._rt.cudaSetDevice(self.ordinal))

    def malloc(self, size: int) -> int:
        """Device memory of at least one byte."""
        return int(self._call(f"allocate {size:,} bytes on the device", self._rt.cudaMalloc(size)))

    def free(self, address: int) -> None:
        """Give device memory back. Nothing queued may still use it."""
        self._call("free device memory", self._rt.cudaFree(address))

    def malloc_host(self, size: int) -> int:
        """Pinned host memory, which the device reads and writes without a copy in between."""
        return int(self._call(f"allocate {size:,} bytes of pinned memory", self._rt.cudaMallocHost(size)))

    def free_host(self, address: int) -> None:
        """Give pinned memory back. Nothing queued may still use it."""
        self._call("free pinned memory", self._rt.cudaFreeHost(address))

    def to_device(self, device: int, host: int, size: int, stream: int) -> None:
        """Queue a copy from pinned memory to the device."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("copy to the device", self._rt.cudaMemcpyAsync(device, host, size, kind, stream))

    def to_host(self, host: int, device: int, size: int, stream: int) -> None:
        """Queue a copy from the device to pinned memory."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("copy from the device", self._rt.cudaMemcpyAsync(host, device, size, kind, stream))

    def copy_strided(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, height: int, stream: int
    ) -> None:
        """Queue a copy on the device of `height` pieces of `width` bytes, whose beginnings are a pitch apart."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call(
            "copy on the device",
            self._rt.cudaMemcpy2DAsync(target, target_pitch, source, source_pitch, width, height, kind, stream),
        )

    def fill_zero(self, address: int, size: int, stream: int) -> None:
        """Queue writing zeros."""
        self._call("clear device memory", self._rt.cudaMemsetAsync(address, 0, size, stream))

    def create_stream(self) -> int:
        """A stream that does not wait for the default one."""
        flags = self._rt.cudaStreamNonBlocking
        return int(self._call("create a stream", self._rt.cudaStreamCreateWithFlags(flags)))

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("destroy a stream", self._rt.cudaStreamDestroy(stream))

    def synchronize(self, stream: int) -> None:
        """Wait for everything queued. Failures of what was queued are reported here."""
        self._call("run the engine", self._rt.cudaStreamSynchronize(stream))

    def begin_capture(self, stream: int) -> None:
        """Record what this thread queues from now on, in place of running it."""
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("begin to capture a graph", self._rt.cudaStreamBeginCapture(stream, mode))

    def end_capture(self, stream: int) -> Any:
        """The recorded graph, not yet fit to be launched."""
        return self._call("capture a graph", self._rt.cudaStreamEndCapture(stream))

    def instantiate(self, graph: Any) -> Any:
        """A graph that can be launched; the recorded one is destroyed, whatever happens."""
        try:
            ready = self._call("instantiate a graph", self._rt.cudaGraphInstantiate(graph, 0))
        except CudaError:
            self._rt.cudaGraphDestroy(graph)  # the first failure is the one to report
            raise
        try:
            self.destroy_recorded(graph)
        except CudaError:
            self._rt.cudaGraphExecDestroy(ready)
            raise
        return ready

    def destroy_recorded(self, graph: Any) -> None:
        """Destroy a graph that was only recorded."""
        self._call("destroy a recorded graph", self._rt.cudaGraphDestroy(graph))

    def launch(self, graph: Any, stream: int) -> None:
        """Queue a graph."""
        self._call("launch a graph", self._rt.cudaGraphLaunch(graph, stream))

    def destroy_graph(self, graph: Any) -> None:
        """Destroy a graph that can be launched."""
        self._call("destroy a graph", self._rt.cudaGraphExecDestroy(graph))
