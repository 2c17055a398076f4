"""A compiled engine, from bytes that were verified to something that makes execution contexts."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from aigc_runtime.backends.trt.build_info import EngineBuild
from aigc_runtime.backends.trt.cache import read_cache, write_cache
from aigc_runtime.backends.trt.cuda import Cuda
from aigc_runtime.backends.trt.interface import check_ports, check_profiles, read_ports
from aigc_runtime.backends.trt.library import Library
from aigc_runtime.core.interface import Interface
from aigc_runtime.errors import EngineError

__all__ = ["TrtEngine"]


class TrtEngine:
    """An engine that several lanes share.

    Args:
        plan: the engine's bytes. They are code: only bytes that agree with a bundle's manifest may come here.
        interface: that the engine must have.
        library: that runs it.
        cuda: the device.
        build: what the manifest says about it.
        cache: file for kernels that TensorRT-RTX compiles here; None keeps none.

    Attributes:
        ports: its inputs and outputs by name.
        own_graphs: whether CUDA graphs are to be captured here. TensorRT-RTX captures its own; carried state that grows
            has another shape at every step; values in host memory would be captured with the graph.

    Raises:
        EngineError: no device, an engine for another one or version, or not the engine that is announced.
    """

    def __init__(
        self,
        plan: bytes,
        interface: Interface,
        *,
        library: Library,
        cuda: Cuda,
        build: EngineBuild,
        cache: Path | None = None,
    ) -> None:
        # First of all: without a driver, making a Runtime crashes the process in some of these libraries.
        if cuda.ordinal >= cuda.device_count():
            raise EngineError(f"there is no CUDA device {cuda.ordinal}", hint="`aigc-run doctor` lists the devices")
        cuda.use()
        self.library, self._cache_file = library, cache
        self._lock, self._saved = threading.Lock(), b""
        self._runtime = self._make_runtime()
        self._refuse_invalid(plan)
        self.native: Any = self._runtime.deserialize_cuda_engine(plan)
        if self.native is None:
            raise library.fail("cannot load the engine", hint="export it again for this device and this version")
        self.ports = read_ports(library.module, self.native)
        check_ports(self.ports, interface)
        check_profiles(self.native, build, {s.name: s.shape for s in interface.graph_inputs})
        if build.weight_streaming and self.native.streamable_weights_size:
            # The library's default keeps all weights on the device.
            self.native.weight_streaming_budget_v2 = self.native.get_weight_streaming_automatic_budget()
        steady = interface.has_steady_state
        self._cache: Any = None
        self._config = self._make_config(steady)
        native_graphs = self._config is not None and hasattr(library.module, "CudaGraphStrategy")
        self.own_graphs = steady and not native_graphs and not any(port.on_host for port in self.ports.values())

    def _make_runtime(self) -> Any:
        try:
            return self.library.module.Runtime(self.library.logger)
        except Exception as err:  # the binding's own types share no base class
            raise self.library.fail(f"does not start ({err})", hint="check the driver: `aigc-run doctor`") from err

    def _refuse_invalid(self, plan: bytes) -> None:
        """TensorRT-RTX says why an engine does not run; later it would only fail to load."""
        if not hasattr(self._runtime, "get_engine_validity"):
            return
        module = self.library.module
        validity, bits = self._runtime.get_engine_validity(plan[: self._runtime.engine_header_size])
        if validity == module.EngineValidity.INVALID:
            known = module.EngineInvalidityDiagnostics.__members__
            reasons = [name for name, flag in known.items() if int(bits) & int(flag)]
            raise EngineError(
                f"the engine does not run on this device: {', '.join(reasons) or 'no reason given'}",
                hint="export it again for this device: `aigc-run doctor` says what it is",
            )

    def _make_config(self, steady: bool) -> Any:
        """Settings of execution contexts, which only TensorRT-RTX needs; None for the others."""
        if not hasattr(self.native, "create_runtime_config"):
            return None
        config = self.native.create_runtime_config()
        if not hasattr(config, "create_runtime_cache"):
            return None
        self._cache = config.create_runtime_cache()
        kept = None if self._cache_file is None else read_cache(self._cache_file)
        if kept is not None and self._cache.deserialize(kept):
            self._saved = kept
        config.set_runtime_cache(self._cache)
        if steady and hasattr(self.library.module, "CudaGraphStrategy"):
            config.cuda_graph_strategy = self.library.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return config

    def make_context(self) -> Any:
        """An execution context: what one run at a time may use.

        Raises:
            EngineError: no memory for it.
        """
        with self._lock:
            if self._config is not None:
                context = self.native.create_execution_context(self._config)
            elif self.own_graphs:
                # A captured graph holds its context for itself, so there are many; they share one scratch memory.
                strategy = self.library.module.ExecutionContextAllocationStrategy.USER_MANAGED
                context = self.native.create_execution_context(strategy)
            else:
                context = self.native.create_execution_context()
        if context is None:
            raise self.library.fail("cannot prepare to run the engine", hint="end other programs on the device")
        return context

    @property
    def scratch_bytes(self) -> int:
        """Device memory that a context with `own_graphs` must be given."""
        return int(self.native.device_memory_size_v2)

    def save_cache(self) -> None:
        """Keep what was compiled on this device, if there is more than was kept."""
        if self._cache is None or self._cache_file is None:
            return
        with self._lock:
            data = bytes(memoryview(self._cache.serialize()))
            if data != self._saved:
                write_cache(self._cache_file, data)
                self._saved = data

    def close(self) -> None:
        """Release the engine; its contexts must be gone."""
        self._cache = self._config = self.native = self._runtime = None
