"""One lane of execution: a stream, an execution context, buffers and graphs, for one run at a time."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from aigc_runtime.backends.trt.buffers import DeviceBuffer, HostBuffer
from aigc_runtime.backends.trt.cuda import Cuda
from aigc_runtime.backends.trt.engine import TrtEngine
from aigc_runtime.backends.trt.graphs import GraphStore
from aigc_runtime.backends.trt.interface import Port
from aigc_runtime.backends.trt.outputs import Asked, make_allocator
from aigc_runtime.backends.trt.state import Pieces, TrtState
from aigc_runtime.core.closing import close_all
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import AigcError, EngineError

__all__ = ["Lane"]

Shapes = dict[str, tuple[int, ...]]
_MOST_KNOWN = 256


class Lane:
    """Runs an engine; not for several threads at once.

    After every run its stream is idle, so buffers may move between runs, and a state may go from one lane to another.

    Args:
        engine: shared with other lanes.
        cuda: the device.

    Raises:
        EngineError: no memory for it.
    """

    def __init__(self, engine: TrtEngine, cuda: Cuda) -> None:
        self._engine, self._cuda = engine, cuda
        self._inputs = [port for port in engine.ports.values() if port.is_input]
        self._outputs = [port for port in engine.ports.values() if not port.is_input]
        self._host = {name: HostBuffer(cuda) for name in engine.ports}
        self._device = {name: DeviceBuffer(cuda) for name in engine.ports}
        self._scratch = DeviceBuffer(cuda)
        self._known: dict[Any, Shapes] = {}
        self._asked = Asked()
        self._allocator = make_allocator(engine.library.module, self._place_on_device, self._asked)
        self._stream = cuda.create_stream()
        self._context: Any = None
        self.graphs: GraphStore | None = None
        try:
            if engine.own_graphs:
                self.graphs = GraphStore(engine, cuda, self._stream)
                self._scratch.require(engine.scratch_bytes)
            self._context = engine.make_context()
        except BaseException:
            with contextlib.suppress(EngineError):
                self.close()
            raise

    def clear(self, address: int, size: int) -> None:
        """Write zeros to device memory, and wait for it."""
        self._cuda.fill_zero(address, size, self._stream)
        self._cuda.synchronize(self._stream)

    def copy(self, pieces: Iterable[Pieces]) -> None:
        """Copy within the device's memory, and wait for it."""
        try:
            for piece in pieces:
                self._cuda.copy_strided(*piece, self._stream)
        finally:
            self._cuda.synchronize(self._stream)

    def run(
        self, profile: int, feeds: Mapping[str, Array], state: TrtState | None, steps: int, wanted: Sequence[str]
    ) -> dict[str, Array]:
        """One run.

        Args:
            profile: index of the profile of shapes.
            feeds: every input that is not carried state.
            state: whose tensors are read and written; it is not advanced here.
            steps: that the run adds to the state.
            wanted: outputs to return.

        Returns:
            New arrays.

        Raises:
            EngineError: the engine failed; the state is as it was.
        """
        try:
            return self._run(profile, feeds, state, steps, wanted)
        except BaseException as err:
            # What is queued still uses the buffers; the failure above is the one to report.
            with contextlib.suppress(EngineError):
                self._cuda.synchronize(self._stream)
            if isinstance(err, AigcError) or not isinstance(err, Exception):
                raise
            # The binding's own types share no base class.
            raise self._engine.library.fail(f"failed ({err})", hint="run `aigc-run verify` on the bundle") from err

    def _run(
        self, profile: int, feeds: Mapping[str, Array], state: TrtState | None, steps: int, wanted: Sequence[str]
    ) -> dict[str, Array]:
        shapes: Shapes = {name: array.shape for name, array in feeds.items()}
        addresses = {name: self._stage(self._engine.ports[name], array) for name, array in feeds.items()}
        written: Shapes = {}
        for tensor in state.tensors if state is not None else ():
            assert state is not None
            shapes[tensor.spec.input] = tensor.shape(state.batch, state.length)
            addresses[tensor.spec.input] = tensor.past.address
            written[tensor.spec.output] = tensor.shape(state.batch, state.length + steps)
            addresses[tensor.spec.output] = tensor.place(state.batch, state.length + steps)
        results = self._execute(profile, shapes, addresses, written)
        return self._fetch(wanted, results, addresses)

    def _stage(self, port: Port, array: Array) -> int:
        """Put an array where the engine reads it; returns the address."""
        bits = array if port.type.encode is None else port.type.encode(array)
        host = self._host[port.name]
        if port.on_host:
            # Read at once and not in the stream's order.
            address = host.require(bits.nbytes)
        else:
            host.require(bits.nbytes)
            address = self._place_on_device(port.name, bits.nbytes)
        if bits.nbytes:
            host.view(bits.shape, port.type.storage)[...] = bits
            if not port.on_host:
                self._cuda.to_device(address, host.address, bits.nbytes, self._stream)
        return address

    def _place_on_device(self, name: str, size: int) -> int:
        """Room in a tensor's device buffer. Graphs hold its address, so they go before it moves."""
        buffer = self._device[name]
        if not buffer.fits(size) and self.graphs is not None:
            self.graphs.clear()
        return buffer.require(size)

    def _execute(self, profile: int, shapes: Shapes, addresses: dict[str, int], written: Shapes) -> Shapes:
        """Queue the engine; fills in the addresses of outputs and returns their shapes."""
        key = (profile, tuple([shapes[port.name] for port in self._inputs]))
        results = self._known.get(key) if self.graphs is not None else None
        bound = results is None
        if results is None:
            results = self._bind(self._context, profile, shapes, addresses, written)
        unknown = self._place_outputs(results, addresses)
        if self.graphs is None or unknown:
            self._enqueue(self._context, addresses, unknown)
            return {**results, **self._asked.shapes}
        if len(self._known) >= _MOST_KNOWN:
            self._known = {}
        self._known[key] = results
        whole = (key, tuple([addresses[name] for name in self._engine.ports]))
        if self.graphs.launch(whole):
            return results
        if self.graphs.wants(whole):
            self.graphs.capture(whole, partial(self._bind_and_enqueue, profile, shapes, addresses, written))
            return results
        if not bound:
            self._bind(self._context, profile, shapes, addresses, written)
        self._enqueue(self._context, addresses, [])
        return results

    def _bind_and_enqueue(
        self, profile: int, shapes: Shapes, addresses: dict[str, int], written: Shapes, context: Any
    ) -> None:
        self._bind(context, profile, shapes, addresses, written)
        self._enqueue(context, addresses, [])

    def _bind(
        self, context: Any, profile: int, shapes: Shapes, addresses: Mapping[str, int], written: Shapes
    ) -> Shapes:
        """Set a context's profile and input shapes; returns the shapes of all outputs, -1 where they depend on data."""
        failed = self._engine.library.fail
        hint = "the engine and its manifest disagree: export the bundle again"
        if context.active_optimization_profile != profile and not context.set_optimization_profile_async(
            profile, self._stream
        ):
            raise failed(f"does not take profile {profile}", hint=hint)
        if self._scratch.address:
            context.set_device_memory(self._scratch.address, self._scratch.size)
        for port in self._inputs:
            if not context.set_input_shape(port.name, shapes[port.name]):
                raise failed(f"does not take shape {list(shapes[port.name])} of {port.name!r}", hint=hint)
            self._set_address(context, port.name, addresses[port.name])
        if missing := context.infer_shapes():
            raise failed(f"cannot tell the shapes of its outputs without {sorted(missing)}", hint=hint)
        results = {port.name: tuple(context.get_tensor_shape(port.name)) for port in self._outputs}
        for name, shape in written.items():
            if results[name] != shape:
                raise EngineError(
                    f"the engine writes {name!r} of shape {list(results[name])}, not {list(shape)}", hint=hint
                )
        return results

    def _set_address(self, context: Any, name: str, address: int) -> None:
        if not context.set_tensor_address(name, address):
            raise self._engine.library.fail(f"does not take the memory of {name!r}", hint="report this as a bug")

    def _place_outputs(self, results: Shapes, addresses: dict[str, int]) -> list[str]:
        """Memory for the outputs that are not carried state; returns those whose size only the run tells."""
        unknown = []
        for port in self._outputs:
            if port.name in addresses:
                continue
            shape = results[port.name]
            if min(shape, default=0) < 0:
                unknown.append(port.name)
                continue
            size = math.prod(shape) * port.type.itemsize
            host = self._host[port.name].require(size)
            if port.alias is not None:
                addresses[port.name] = addresses[port.alias]
            else:
                addresses[port.name] = host if port.on_host else self._place_on_device(port.name, size)
        return unknown

    def _enqueue(self, context: Any, addresses: Mapping[str, int], unknown: Sequence[str]) -> None:
        self._asked.reset()
        for port in self._outputs:
            if port.name in unknown:
                context.set_output_allocator(port.name, self._allocator)
            else:
                self._set_address(context, port.name, addresses[port.name])
        done = context.execute_async_v3(self._stream)
        if self._asked.failure is not None:
            raise self._asked.failure
        if not done:
            raise self._engine.library.fail("failed", hint="run `aigc-run verify` on the bundle")

    def _fetch(self, wanted: Sequence[str], results: Shapes, addresses: Mapping[str, int]) -> dict[str, Array]:
        """Copy outputs to the host and wait for everything queued."""
        ports = [self._engine.ports[name] for name in wanted]
        for port in ports:
            size = math.prod(results[port.name]) * port.type.itemsize
            host = self._host[port.name].require(size)
            if size and not port.on_host:
                source = addresses.get(port.name) or self._device[port.name].address
                self._cuda.to_host(host, source, size, self._stream)
        self._cuda.synchronize(self._stream)
        return {port.name: self._result(port, results[port.name]) for port in ports}

    def _result(self, port: Port, shape: tuple[int, ...]) -> Array:
        bits = self._host[port.name].view(shape, port.type.storage)
        return np.array(bits) if port.type.decode is None else port.type.decode(bits)

    def close(self) -> None:
        """Release everything; the stream is idle."""
        graphs, self.graphs, self._context = self.graphs, None, None
        steps = [graphs.clear] if graphs is not None else []
        buffers: list[Any] = [*self._host.values(), *self._device.values(), self._scratch]
        steps += [buffer.close for buffer in buffers]
        stream, self._stream = self._stream, 0
        if stream:
            steps.append(partial(self._cuda.destroy_stream, stream))
        close_all(steps)
