"""`cuda.bindings.runtime` over host memory, as strict as its documentation.

What a real device might let pass, faults here. Device addresses are invented numbers, so that a host pointer is never
taken for one. Every allocation lies alone, filled with noise, and knows whether it was freed. What is queued on a
stream runs when the stream is synchronized, not before. A captured graph holds what was queued, with the addresses of
that moment. Every call can be made to fail.
"""

from __future__ import annotations

import ctypes
import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NOISE = 0xCB


class SimulatedFault(BaseException):
    """Something that a device would answer with wrong numbers or a crash. Not an Exception: nothing may handle it."""


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


@dataclass
class Block:
    address: int
    data: np.ndarray
    device: int | None
    freed: bool = False


@dataclass
class Stream:
    handle: int
    device: int
    queue: list[Callable[[], None]] = field(default_factory=list)
    capturing: list[Callable[[], None]] | None = None
    invalidated: bool = False
    capture_thread: int | None = None


class Graph:
    def __init__(self, work: list[Callable[[], None]]) -> None:
        self.work, self.destroyed = work, False


class GraphExec(Graph):
    """A graph that can be launched."""


COUNTED = [
    "cudaGetDeviceCount",
    "cudaSetDevice",
    "cudaMalloc",
    "cudaFree",
    "cudaMallocHost",
    "cudaFreeHost",
    "cudaMemcpyAsync",
    "cudaMemcpy2DAsync",
    "cudaMemsetAsync",
    "cudaStreamCreateWithFlags",
    "cudaStreamDestroy",
    "cudaStreamSynchronize",
    "cudaStreamBeginCapture",
    "cudaStreamEndCapture",
    "cudaGraphInstantiate",
    "cudaGraphLaunch",
    "cudaGraphDestroy",
    "cudaGraphExecDestroy",
]
RELEASING = {"cudaFree", "cudaFreeHost", "cudaStreamDestroy", "cudaGraphDestroy", "cudaGraphExecDestroy"}


class SimulatedGpu:
    """Stands for the module. `calls` lists what was called.

    `fail_at` makes the n-th call of all fail, `fail_from` that one and every later one.
    """

    cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode = cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode
    cudaStreamNonBlocking = 1

    def __init__(self, *, devices: int = 1, limit: int = 2**40, reuse_addresses: bool = False) -> None:
        self.devices, self.limit, self.reuse = devices, limit, reuse_addresses
        self.calls: list[str] = []
        self.fail_at: int | None = None
        self.fail_from: int | None = None
        self.error = cudaError_t.cudaErrorLaunchFailure
        self.lost: set[int] = set()
        self.blocks: dict[int, Block] = {}
        self.pinned: dict[int, Block] = {}
        self.streams: dict[int, Stream] = {}
        self.graphs: list[Graph] = []
        self._next = 0x7_0000_0000
        self._current = threading.local()
        self._lock = threading.RLock()
        self._graveyard: list[np.ndarray] = []

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        return self._counted(name, value) if name in COUNTED else value

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            with self._lock:
                self.calls.append(name)
                gone = self.fail_from is not None and len(self.calls) >= self.fail_from
                if gone or len(self.calls) == self.fail_at:
                    if name in RELEASING:
                        self.lost.add(id(arguments[0]) if isinstance(arguments[0], Graph) else int(arguments[0]))
                    if name == "cudaStreamEndCapture":  # a failed capture ends all the same
                        self.streams[int(arguments[0])].capturing = None
                    if name == "cudaStreamSynchronize":  # reports the failure of what was queued
                        self.streams[int(arguments[0])].queue.clear()
                    return self.error, None
                return call(*arguments)

        return counted

    def named(self) -> int:
        """The calling thread's device."""
        device = getattr(self._current, "device", None)
        if device is None:
            raise SimulatedFault("a call from a thread that has chosen no device")
        return int(device)

    # -- memory ---------------------------------------------------------------------------------------------------

    def device_memory(self, address: int, size: int, *, what: str) -> np.ndarray:
        """`size` bytes of device memory, as a kernel would touch them."""
        for block in self.blocks.values():
            if block.address <= address < block.address + len(block.data):
                if block.freed:
                    raise SimulatedFault(f"{what}: use of freed device memory")
                start = address - block.address
                if start + size > len(block.data):
                    raise SimulatedFault(f"{what}: {size} bytes at {start} of a block of {len(block.data)}")
                return block.data[start : start + size]
        raise SimulatedFault(f"{what}: {address:#x} is no device address")

    def host_memory(self, address: int, size: int, *, what: str) -> np.ndarray:
        """`size` bytes of pinned memory."""
        for block in self.pinned.values():
            if block.address <= address < block.address + len(block.data) and not block.freed:
                start = address - block.address
                if start + size > len(block.data):
                    raise SimulatedFault(f"{what}: {size} bytes at {start} of pinned {len(block.data)}")
                return block.data[start : start + size]
        raise SimulatedFault(f"{what}: {address:#x} is no pinned address")

    def _busy(self, address: int) -> None:
        for stream in self.streams.values():
            if stream.queue and address in {a for work in stream.queue for a in getattr(work, "touches", ())}:
                raise SimulatedFault("memory is freed while queued work uses it")

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        self._no_capture()
        if size <= 0:
            raise SimulatedFault("an allocation of no bytes")
        if sum(len(b.data) for b in self.blocks.values() if not b.freed) + size > self.limit:
            return cudaError_t.cudaErrorMemoryAllocation, None
        address = self._address(size)
        self.blocks[address] = Block(address, np.full(size, NOISE, np.uint8), self.named())
        return cudaError_t.cudaSuccess, address

    def _address(self, size: int) -> int:
        if self.reuse:
            for address, block in self.blocks.items():
                if block.freed and len(block.data) == size:
                    return address
        self._next += (size // 256 + 2) * 256
        return self._next - (size // 256 + 1) * 256

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        self._no_capture()
        block = self.blocks.get(address)
        if block is None or block.freed:
            raise SimulatedFault("device memory is freed twice, or never was any")
        self._busy(address)
        block.freed = True
        return (cudaError_t.cudaSuccess,)

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        data = np.full(size, NOISE, np.uint8)
        self.pinned[data.ctypes.data] = Block(data.ctypes.data, data, None)
        return cudaError_t.cudaSuccess, data.ctypes.data

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        block = self.pinned.pop(address, None)
        if block is None:
            raise SimulatedFault("pinned memory is freed twice, or never was any")
        self._busy(address)
        ctypes.memset(address, 0xDD, len(block.data))
        self._graveyard.append(block.data)  # views that outlive it read noise, not other people's memory
        return (cudaError_t.cudaSuccess,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> Any:
        def copy() -> None:
            if kind == cudaMemcpyKind.cudaMemcpyHostToDevice:
                into = self.device_memory(target, size, what="copy to the device")
                into[:] = self.host_memory(source, size, what="copy to the device")
            else:
                into = self.host_memory(target, size, what="copy from the device")
                into[:] = self.device_memory(source, size, what="copy from the device")

        if size <= 0:
            raise SimulatedFault("a copy of no bytes")
        return self._queue(stream, copy, (target, source))

    def cudaMemcpy2DAsync(
        self, target: int, dpitch: int, source: int, spitch: int, width: int, height: int, kind: int, stream: int
    ) -> Any:
        if kind != cudaMemcpyKind.cudaMemcpyDeviceToDevice or not 0 < width <= min(dpitch, spitch) or height <= 0:
            raise SimulatedFault("a strided copy of another kind, of no bytes, or of pieces that overlap")
        ends = [target + (height - 1) * dpitch + width, source + (height - 1) * spitch + width]
        if target < ends[1] and source < ends[0]:
            raise SimulatedFault("a strided copy into what it reads")

        def copy() -> None:
            for i in range(height):
                into = self.device_memory(target + i * dpitch, width, what="copy on the device")
                into[:] = self.device_memory(source + i * spitch, width, what="copy on the device")

        return self._queue(stream, copy, (target, source))

    def cudaMemsetAsync(self, address: int, value: int, size: int, stream: int) -> Any:
        def fill() -> None:
            self.device_memory(address, size, what="memset")[:] = value

        return self._queue(stream, fill, (address,))

    # -- streams and graphs ---------------------------------------------------------------------------------------

    def _stream(self, handle: int) -> Stream:
        stream = self.streams.get(int(handle))
        if stream is None:
            raise SimulatedFault("a stream that was destroyed, or never was one")
        if stream.device != self.named():
            raise SimulatedFault("a stream of another device than the thread's")
        return stream

    def _queue(self, handle: int, work: Callable[[], None], touches: tuple[int, ...]) -> tuple[Any, ...]:
        stream = self._stream(handle)
        work.touches = touches  # type: ignore[attr-defined]
        (stream.queue if stream.capturing is None else stream.capturing).append(work)
        return (cudaError_t.cudaSuccess,)

    def queue_kernel(self, handle: int, work: Callable[[], None], touches: tuple[int, ...]) -> None:
        """For the simulated engine."""
        self._queue(handle, work, touches)

    def is_capturing(self, handle: int) -> bool:
        return self._stream(handle).capturing is not None

    def _no_capture(self) -> None:
        if any(s.capturing is not None and s.capture_thread == threading.get_ident() for s in self.streams.values()):
            raise SimulatedFault("memory is allocated or freed during a capture")

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        if flags != self.cudaStreamNonBlocking:
            raise SimulatedFault("a stream that waits for the default stream")
        self._next += 256
        self.streams[self._next] = Stream(self._next, self.named())
        return cudaError_t.cudaSuccess, self._next

    def cudaStreamDestroy(self, handle: int) -> tuple[Any, ...]:
        if self._stream(handle).queue:
            raise SimulatedFault("a stream is destroyed with work in its queue")
        del self.streams[int(handle)]
        return (cudaError_t.cudaSuccess,)

    def cudaStreamSynchronize(self, handle: int) -> tuple[Any, ...]:
        stream = self._stream(handle)
        if stream.capturing is not None:
            stream.invalidated = True
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        work, stream.queue = stream.queue, []
        for step in work:
            step()
        return (cudaError_t.cudaSuccess,)

    def cudaStreamBeginCapture(self, handle: int, mode: int) -> tuple[Any, ...]:
        stream = self._stream(handle)
        if stream.capturing is not None or mode != cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal:
            raise SimulatedFault("a capture within a capture, or one that disturbs other threads")
        stream.capturing, stream.capture_thread, stream.invalidated = [], threading.get_ident(), False
        return (cudaError_t.cudaSuccess,)

    def cudaStreamEndCapture(self, handle: int) -> tuple[Any, ...]:
        stream = self._stream(handle)
        work, stream.capturing = stream.capturing, None
        if stream.invalidated or work is None:
            return cudaError_t.cudaErrorStreamCaptureInvalidated, None
        return cudaError_t.cudaSuccess, self._new_graph(Graph(work))

    def _new_graph(self, graph: Graph) -> Graph:
        self.graphs.append(graph)
        return graph

    def cudaGraphInstantiate(self, graph: Graph, flags: int) -> tuple[Any, ...]:
        if graph.destroyed or flags:
            raise SimulatedFault("a destroyed graph, or unknown flags")
        return cudaError_t.cudaSuccess, self._new_graph(GraphExec(graph.work))

    def cudaGraphLaunch(self, graph: Graph, handle: int) -> tuple[Any, ...]:
        if graph.destroyed or not isinstance(graph, GraphExec):
            raise SimulatedFault("a graph is launched that was destroyed or is not instantiated")
        for work in graph.work:
            self._queue(handle, work, work.touches)  # type: ignore[attr-defined]
        return (cudaError_t.cudaSuccess,)

    def cudaGraphDestroy(self, graph: Graph) -> tuple[Any, ...]:
        if graph.destroyed:
            raise SimulatedFault("a graph is destroyed twice")
        graph.destroyed = True
        return (cudaError_t.cudaSuccess,)

    cudaGraphExecDestroy = cudaGraphDestroy

    # -- the rest -------------------------------------------------------------------------------------------------

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return (cudaError_t.cudaSuccess, self.devices) if self.devices else (cudaError_t.cudaErrorNoDevice, None)

    def cudaSetDevice(self, ordinal: int) -> tuple[Any, ...]:
        if not 0 <= ordinal < self.devices:
            return (cudaError_t.cudaErrorInvalidDevice,)
        self._current.device = ordinal
        return (cudaError_t.cudaSuccess,)

    def cudaGetErrorString(self, error: int) -> tuple[Any, ...]:
        return cudaError_t.cudaSuccess, f"simulated {cudaError_t(error).name}".encode()

    def leaks(self) -> list[str]:
        """What is still held, but for what could not be released because that very call was made to fail."""
        held = [f"{len(b.data)} bytes" for b in self.blocks.values() if not b.freed and b.address not in self.lost]
        held += [f"{len(b.data)} bytes pinned" for b in self.pinned.values() if b.address not in self.lost]
        held += ["a stream" for handle in self.streams if handle not in self.lost]
        return held + ["a graph" for g in self.graphs if not g.destroyed and id(g) not in self.lost]
