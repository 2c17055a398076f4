"""TensorRT's module over the simulated device, computing with a numpy function. Two flavors: classic and RTX.

It follows what the documentation of `IExecutionContext` and its companions says, and faults where that says undefined:
shapes that were not set after a change of profile, memory that does not fit, an output over an input that it is no
alias of, a graph whose context changed after the capture, a first run that is captured, a Runtime without a device.
"""

from __future__ import annotations

import enum
import math
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from aigc_runtime.core.interface import Interface
from aigc_runtime.core.sizes import size_value

from .simulated_gpu import SimulatedFault, SimulatedGpu

Function = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class DataType(enum.Enum):
    FLOAT, HALF, BF16, INT8, INT32, INT64, BOOL, UINT8, FP8, INT4 = range(10)


STORAGE = {
    DataType.FLOAT: "float32", DataType.HALF: "float16", DataType.BF16: "uint16", DataType.INT8: "int8",
    DataType.INT32: "int32", DataType.INT64: "int64", DataType.BOOL: "bool", DataType.UINT8: "uint8",
    DataType.FP8: "uint8",
}  # fmt: skip
OF_NAME = {"float32": DataType.FLOAT, "float16": DataType.HALF} | {
    name: DataType[name.upper()] for name in ("int8", "int32", "int64", "bool", "uint8")
}


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class EngineValidity(enum.Enum):
    VALID, SUBOPTIMAL, INVALID = range(3)


class EngineInvalidityDiagnostics(enum.IntFlag):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2


class CudaGraphStrategy(enum.Enum):
    DISABLED, WHOLE_GRAPH_CAPTURE = range(2)


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity

    def __init__(self) -> None:
        self.sim_made = True


class IOutputAllocator:
    def __init__(self) -> None:
        self.sim_made = True


@dataclass
class Plan:
    """What an engine's bytes stand for."""

    function: Function
    inputs: dict[str, tuple[DataType, tuple[int | str, ...]]]
    outputs: dict[str, tuple[DataType, tuple[int | str, ...]]]
    profiles: list[dict[str, tuple[int, int, int]]]
    alias: dict[str, str] = field(default_factory=dict)
    host: set[str] = field(default_factory=set)
    data_dependent: set[str] = field(default_factory=set)
    validity: EngineValidity = EngineValidity.VALID
    diagnostics: int = 0
    scratch: int = 1024
    capturable: bool = True
    says_capturable: bool = True
    captured_run: Callable[[], bool] | None = None
    streamable: int = 0
    fail_after: int | None = None


def plan_of(
    function: Function,
    interface: Interface,
    profiles: Sequence[dict[str, tuple[int, int, int]]] = ({},),
    **changes: Any,
) -> Plan:
    """The plan of an engine with that interface."""
    into = {s.name: (OF_NAME[s.dtype], s.shape) for s in interface.graph_inputs}
    out = {s.name: (OF_NAME[s.dtype], s.shape) for s in interface.outputs}
    out |= {s.output: (OF_NAME[s.dtype], s.shape) for s in interface.state}
    return Plan(function, into, out, list(profiles), **changes)


class Context:
    sim_live: weakref.WeakSet[Context] = weakref.WeakSet()

    def __init__(self, engine: Engine, strategy: ExecutionContextAllocationStrategy, graphs: bool) -> None:
        self._engine, self._gpu, self._plan = engine, engine.sim_gpu, engine.sim_plan
        self._user_managed = strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        self.sim_graphs = graphs
        self.active_optimization_profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._scratch = (0, 0)
        self._version = 0
        self._ran_version: int | None = None
        self._captured_version: int | None = None
        self._results: dict[str, tuple[int, ...]] = {}
        self._busy = threading.Lock()
        Context.sim_live.add(self)
        if not self._user_managed:
            self._version += 1

    def _change(self) -> None:
        self._version += 1

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self._engine.sim_note("set_optimization_profile_async")
        if not 0 <= index < len(self._plan.profiles):
            self._engine.sim_log(f"no profile {index}")
            return False
        self._gpu.is_capturing(stream)
        self.active_optimization_profile = index
        self._shapes, self._results = {}, {}
        self._change()
        return True

    def set_device_memory(self, address: int, size: int) -> None:
        if not self._user_managed:
            raise SimulatedFault("memory is given to a context that has its own")
        if size < self._plan.scratch or address % 256:
            raise SimulatedFault("scratch memory is too small or not aligned")
        if self._scratch != (address, size):
            self._scratch = (address, size)
            self._change()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if not isinstance(shape, tuple) or name not in self._plan.inputs:
            raise SimulatedFault(f"shape of {name}: {shape!r}")
        low, _, high = self._engine.get_tensor_profile_shape(name, self.active_optimization_profile)
        if len(shape) != len(low) or not all(a <= s <= b for a, s, b in zip(low, shape, high, strict=True)):
            self._engine.sim_log(f"{name} of shape {shape} is outside profile {self.active_optimization_profile}")
            return False
        if self._shapes.get(name) != shape:
            self._shapes[name] = shape
            self._results = {}
            self._change()
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        if address == 0:
            self._engine.sim_log(f"{name} has address null")
            return False
        if self._addresses.get(name) != address:
            self._addresses[name] = address
            self._change()
        return True

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        if not getattr(allocator, "sim_made", False):
            raise SimulatedFault("an allocator whose base class was not initialized")
        self._allocators[name] = allocator
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        self._gpu.is_capturing(stream)
        return self._plan.says_capturable

    def infer_shapes(self) -> list[str]:
        missing = [name for name in self._plan.inputs if name not in self._shapes]
        missing += [name for name in self._plan.host if name in self._plan.inputs and name not in self._addresses]
        if missing:
            return missing
        values = {}
        for name, (kind, _) in self._plan.inputs.items():
            values[name] = np.zeros(self._shapes[name], OF_CALLER[kind])
            if name in self._plan.host:
                values[name] = self._read_host(name)
        self._results = {n: np.shape(v) for n, v in self._plan.function(values).items()}
        return []

    def _read_host(self, name: str) -> np.ndarray:
        kind = self._plan.inputs[name][0]
        size = math.prod(self._shapes[name]) * np.dtype(STORAGE[kind]).itemsize
        raw = self._gpu.host_memory(self._addresses[name], max(1, size), what=name)[:size]
        return raw.view(STORAGE[kind]).reshape(self._shapes[name]).copy()

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._plan.data_dependent:
            return tuple(-1 for _ in self._plan.outputs[name][1])
        if name in self._plan.inputs:
            return self._shapes.get(name, tuple(-1 for _ in self._plan.inputs[name][1]))
        if not self._results:
            return tuple(-1 for _ in self._plan.outputs[name][1])
        return self._results[name]

    def execute_async_v3(self, stream: int) -> bool:
        self._engine.sim_note("execute_async_v3")
        if not self._busy.acquire(blocking=False):
            raise SimulatedFault("one context in two threads")
        try:
            return self._execute(stream)
        finally:
            self._busy.release()

    def _execute(self, stream: int) -> bool:
        if not self._results:
            raise SimulatedFault("a run whose shapes were not inferred")
        if self._user_managed and not self._scratch[0]:
            raise SimulatedFault("a run without scratch memory")
        if self._plan.fail_after is not None and self._engine.sim_runs >= self._plan.fail_after:
            self._engine.sim_log("a kernel failed")
            return False
        capturing = self._gpu.is_capturing(stream)
        if capturing:
            if self._plan.captured_run is not None:
                return self._plan.captured_run()
            if not self._plan.capturable:
                self._gpu.streams[stream].invalidated = True
                return False
            if self._ran_version != self._version:
                raise SimulatedFault("a capture without a run before it")
            self._captured_version = self._version
        elif self._captured_version is not None:
            raise SimulatedFault("a context is used again that a graph was captured from")
        self._ran_version = self._version
        self._engine.sim_runs += 1
        if self._plan.data_dependent:
            return self._execute_at_once(stream)
        self._check_addresses()
        version = self._version
        addresses, shapes, results = dict(self._addresses), dict(self._shapes), dict(self._results)
        host = {name: self._read_host(name) for name in self._plan.host if name in self._plan.inputs}
        this = weakref.ref(self)

        def kernel() -> None:
            context = this()
            if context is None:
                raise SimulatedFault("a run or graph whose context is gone")
            if context._version != version:
                raise SimulatedFault("a run or graph whose context has changed since")
            compute(gpu, plan, addresses, shapes, results, host, scratch)

        gpu, plan, compute, scratch = self._gpu, self._plan, self._engine_compute, self._scratch
        self._gpu.queue_kernel(stream, kernel, (*addresses.values(), self._scratch[0]))
        return True

    def _check_addresses(self) -> None:
        for name in (*self._plan.inputs, *self._plan.outputs):
            if not self._addresses.get(name):
                raise SimulatedFault(f"{name} has no address")
        for out in self._plan.outputs:
            for name in self._plan.inputs:
                same, alias = self._addresses[out] == self._addresses[name], self._plan.alias.get(out) == name
                if same != alias:
                    raise SimulatedFault(f"{out} is {'not ' if alias else ''}written over {name}")

    @staticmethod
    def _engine_compute(
        gpu: SimulatedGpu,
        plan: Plan,
        addresses: Mapping[str, int],
        shapes: Mapping[str, tuple[int, ...]],
        results: Mapping[str, tuple[int, ...]],
        host: Mapping[str, np.ndarray],
        scratch: tuple[int, int],
    ) -> None:
        if scratch[0]:
            gpu.device_memory(*scratch, what="scratch")[:] ^= 0xFF
        values = dict(host)
        for name, (kind, _) in plan.inputs.items():
            if name not in host:
                size = math.prod(shapes[name]) * np.dtype(STORAGE[kind]).itemsize
                raw = gpu.device_memory(addresses[name], max(1, size), what=name)[:size].copy()
                values[name] = from_storage(kind, raw.view(STORAGE[kind]).reshape(shapes[name]))
        for name, value in plan.function(values).items():
            kind = plan.outputs[name][0]
            if np.shape(value) != results[name]:
                raise SimulatedFault(f"{name} has shape {np.shape(value)}, announced {results[name]}")
            bits = np.ascontiguousarray(to_storage(kind, value))
            memory = gpu.host_memory if name in plan.host else gpu.device_memory
            memory(addresses[name], max(1, bits.nbytes), what=name)[: bits.nbytes] = bits.reshape(-1).view(np.uint8)

    def _execute_at_once(self, stream: int) -> bool:
        """Shapes that depend on data: the library waits for the device inside the call."""
        self._gpu.cudaStreamSynchronize(stream)
        values = {}
        for name, (kind, _) in self._plan.inputs.items():
            size = math.prod(self._shapes[name]) * np.dtype(STORAGE[kind]).itemsize
            raw = self._gpu.device_memory(self._addresses[name], max(1, size), what=name)[:size].copy()
            values[name] = from_storage(kind, raw.view(STORAGE[kind]).reshape(self._shapes[name]))
        for name, value in self._plan.function(values).items():
            bits = np.ascontiguousarray(to_storage(self._plan.outputs[name][0], value))
            address = self._addresses.get(name, 0)
            if name in self._plan.data_dependent:
                address = self._allocators[name].reallocate_output_async(name, 0, max(1, bits.nbytes), 256, stream)
                if not address:
                    self._engine.sim_log(f"no memory for {name}")
                    return False
                self._allocators[name].notify_shape(name, np.shape(value))
            into = self._gpu.device_memory(address, max(1, bits.nbytes), what=name)
            into[: bits.nbytes] = bits.reshape(-1).view(np.uint8)
        return True


OF_CALLER = {kind: ("float32" if kind in (DataType.BF16, DataType.FP8) else name) for kind, name in STORAGE.items()}


def from_storage(kind: DataType, bits: np.ndarray) -> np.ndarray:
    """bfloat16 as its upper half of float32; other types as they are. Independent of the code under test."""
    if kind == DataType.BF16:
        wide = np.zeros((*bits.shape, 2), np.uint16)
        wide[..., 1] = bits
        return wide.view(np.float32)[..., 0]
    return bits


def to_storage(kind: DataType, value: np.ndarray) -> np.ndarray:
    """Values that bfloat16 holds exactly become its bits; anything else is a fault."""
    if kind == DataType.BF16:
        halves = np.ascontiguousarray(value, np.float32).reshape(*np.shape(value), 1).view(np.uint16)
        if halves[..., 0].any():
            raise SimulatedFault("a value that bfloat16 does not hold")
        return halves[..., 1]
    return np.asarray(value, STORAGE[kind])


class RuntimeCache:
    def __init__(self, engine: Engine) -> None:
        self._engine, self.sim_blob = engine, b""

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"kernels for "):
            return False
        self.sim_blob = blob
        return True

    def serialize(self) -> bytes:
        return self.sim_blob or f"kernels for {self._engine.sim_runs > 0}".encode()


class RuntimeConfig:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.sim_cache: RuntimeCache | None = None

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache(self._engine)

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.sim_cache = cache
        self._engine.sim_caches.append(cache)
        return True


class Engine:
    def __init__(self, gpu: SimulatedGpu, plan: Plan, say: Callable[[str], None]) -> None:
        self.sim_gpu, self.sim_plan, self.sim_log = gpu, plan, say
        self.sim_runs = 0
        self.sim_calls: list[str] = []
        self.sim_device = gpu.named()
        self.sim_caches: list[RuntimeCache] = []
        self.num_io_tensors = len(plan.inputs) + len(plan.outputs)
        self.num_optimization_profiles = len(plan.profiles)
        self.device_memory_size_v2 = plan.scratch
        self.streamable_weights_size = plan.streamable
        self.weight_streaming_budget_v2 = plan.streamable
        self.sim_refuse_contexts = False

    def sim_note(self, call: str) -> None:
        self.sim_calls.append(call)

    def get_weight_streaming_automatic_budget(self) -> int:
        return self.sim_plan.streamable // 2

    def get_tensor_name(self, index: int) -> str:
        return [*self.sim_plan.inputs, *self.sim_plan.outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.sim_plan.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return {**self.sim_plan.inputs, **self.sim_plan.outputs}[name][0]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if name in self.sim_plan.host else TensorLocation.DEVICE

    def get_aliased_input_tensor(self, name: str) -> str | None:
        return self.sim_plan.alias.get(name)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        dims = self.sim_plan.profiles[index]
        sizes = self.sim_plan.inputs[name][1]
        known = [{name: found[k] for name, found in dims.items()} for k in range(3)]
        return [
            tuple(value if (value := size_value(s, known[k])) is not None else (0, 1, 99)[k] for s in sizes)
            for k in range(3)
        ]

    def create_execution_context(self, strategy: Any = ExecutionContextAllocationStrategy.STATIC) -> Context | None:
        if self.sim_refuse_contexts:
            self.sim_log("no memory for activations")
            return None
        if self.sim_gpu.named() != self.sim_device:
            raise SimulatedFault("a context on another device than its engine")
        if isinstance(strategy, RuntimeConfig):
            graphs = strategy.cuda_graph_strategy == CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            return Context(self, ExecutionContextAllocationStrategy.STATIC, graphs)
        return Context(self, strategy, graphs=False)


class RtxEngine(Engine):
    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self)


def simulated_tensorrt(gpu: SimulatedGpu, plans: Mapping[bytes, Plan], *, rtx: bool = False) -> Any:
    """The module, for plans that are known by their bytes.

    `sim_engines` lists what it made, `sim_deserialized` what it was given. What starts with `sim_` is not TensorRT's.
    """
    engines: list[Engine] = []
    deserialized: list[bytes] = []

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            if not getattr(logger, "sim_made", False):
                raise SimulatedFault("a logger whose base class was not initialized")
            if not gpu.devices:
                raise SimulatedFault("a Runtime without a device: the process would crash")
            self._logger: Any = logger

        def deserialize_cuda_engine(self, blob: bytes) -> Engine | None:
            deserialized.append(bytes(blob))

            def say(text: str) -> None:
                self._logger.log(Severity.ERROR, text)

            if bytes(blob) not in plans:
                say("the plan is corrupt")
                return None
            engines.append((RtxEngine if rtx else Engine)(gpu, plans[bytes(blob)], say))
            return engines[-1]

    class RtxRuntime(Runtime):
        engine_header_size = 4

        def get_engine_validity(self, header: bytes) -> tuple[EngineValidity, int]:
            if len(header) > self.engine_header_size:
                raise SimulatedFault("more than the header")
            found = [plan for blob, plan in plans.items() if blob[:4] == bytes(header)]
            return (found[0].validity, found[0].diagnostics) if found else (EngineValidity.VALID, 0)

    module = SimpleNamespace(
        __name__=f"simulated_{id(gpu)}_{rtx}",
        __version__="1.7.1.116" if rtx else "10.3.0",
        ILogger=ILogger,
        IOutputAllocator=IOutputAllocator,
        Runtime=RtxRuntime if rtx else Runtime,
        DataType=DataType,
        TensorIOMode=TensorIOMode,
        TensorLocation=TensorLocation,
        EngineValidity=EngineValidity,
        EngineInvalidityDiagnostics=EngineInvalidityDiagnostics,
        ExecutionContextAllocationStrategy=ExecutionContextAllocationStrategy,
        sim_engines=engines,
        sim_deserialized=deserialized,
    )
    if rtx:
        module.CudaGraphStrategy = CudaGraphStrategy
    return module
