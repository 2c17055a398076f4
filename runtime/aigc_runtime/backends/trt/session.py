"""TensorRT and TensorRT-RTX on an NVIDIA device, with numpy and cuda-bindings alone.

The engine is code: it is loaded from bytes that agree with the bundle's manifest, after the manifest was found to fit
the device. Nothing falls back to anything: an engine that cannot run here is an error with the reason.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from aigc_runtime.backends.base import EngineFiles
from aigc_runtime.backends.trt.build_info import EngineBuild, Flavor
from aigc_runtime.backends.trt.cache import cache_path
from aigc_runtime.backends.trt.cuda import Cuda, load_cuda
from aigc_runtime.backends.trt.engine import TrtEngine
from aigc_runtime.backends.trt.lane import Lane
from aigc_runtime.backends.trt.library import Library, load_library
from aigc_runtime.backends.trt.pool import MOST_LANES, LanePool
from aigc_runtime.backends.trt.preflight import check, require
from aigc_runtime.backends.trt.requirements import PACKAGES
from aigc_runtime.backends.trt.state import Carried, Pieces, StateMemory, TrtState
from aigc_runtime.core.closing import close_all
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.session import State
from aigc_runtime.core.shape_profiles import choose_profile
from aigc_runtime.core.state import check_batch, check_rows, new_steps, require_state
from aigc_runtime.core.tensors import Array, FeedChecker
from aigc_runtime.device.probe import probe_device
from aigc_runtime.errors import EngineError, FeedError

__all__ = ["TrtSession", "open_trt"]


def open_trt(kind: Flavor, files: EngineFiles) -> TrtSession:
    """Open a TensorRT engine of a bundle.

    Raises:
        EngineMissingError: a package is not installed; the hint is the install line.
        EngineError: the engine does not run here; says why and what to rebuild.
        BundleError: the engine file changed since the bundle was opened.
    """
    device, build = probe_device(PACKAGES), files.facts.build
    ordinal = require(check(kind, files.facts, device))
    library, cuda, gpu = load_library(build), load_cuda(ordinal), device.gpus[ordinal]
    return TrtSession(
        files.read(files.file),
        files.interface,
        library=library,
        cuda=cuda,
        build=build,
        cache=cache_path(files.sha256, f"{gpu.name} {gpu.compute_capability}"),
    )


class _Resources:
    """Everything that a session must give back, apart from the session, which may end without `close`."""

    def __init__(self, engine: TrtEngine, cuda: Cuda, most_lanes: int) -> None:
        self.engine, self.cuda = engine, cuda
        self.memory = StateMemory()
        self.pool = LanePool(partial(Lane, engine, cuda), most_lanes)

    def close(self) -> None:
        """Wait for runs that are under way, then release."""
        steps = [self.cuda.use, self.engine.save_cache, self.pool.close, self.memory.close, self.engine.close]
        close_all(steps)


class TrtSession:
    """A `Session` over a compiled engine.

    Several threads may run it, each with its own state; at most `most_lanes` runs are under way at a time, others wait.

    Args:
        plan: the engine's bytes, verified.
        interface: that the engine must have.
        library: that runs it.
        cuda: the device.
        build: what the manifest says about it.
        cache: file for kernels that TensorRT-RTX compiles on this device.
        most_lanes: runs at a time.

    Raises:
        EngineError: no device, an engine for another device, or not the engine that is announced.
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
        most_lanes: int = MOST_LANES,
    ) -> None:
        self.interface = interface
        self._checker = FeedChecker(interface.inputs, interface.dims_by_name)
        self._build = build
        self._wanted = [s.name for s in interface.outputs]
        engine = TrtEngine(plan, interface, library=library, cuda=cuda, build=build, cache=cache)
        self._resources = _Resources(engine, cuda, most_lanes)
        self._end = weakref.finalize(self, self._resources.close)
        self._lock, self._ran = threading.Lock(), False
        self.engine_seconds = 0.0

    def _require_open(self) -> None:
        if not self._end.alive:
            raise EngineError("the session is closed", hint="open the bundle again")

    def new_state(self, batch: int) -> TrtState:
        """Empty carried state for `batch` rows, in device memory until nobody holds it."""
        batch = check_rows(batch, self.interface)
        self._require_open()
        mine = self._resources
        mine.cuda.use()
        mine.memory.free_ended()
        tensors = [Carried(spec, mine.engine.ports, self.interface, mine.cuda) for spec in self.interface.state]
        state = TrtState(self, batch, tensors)
        weakref.finalize(state, mine.memory.add(tensors)).atexit = False
        # Within a lease, which `close` waits for: nothing is allocated after everything was freed.
        with mine.pool.lease() as lane:
            for tensor in tensors:
                if size := tensor.allocate(batch):
                    lane.clear(tensor.past.address, size)
        return state

    def run(self, feeds: Mapping[str, Array], state: State | None = None) -> dict[str, Array]:
        """Run one step; see `Session.run`."""
        self._require_open()
        sizes = dict(self._checker.check(feeds))
        require_state(state, TrtState, self.interface)
        carried, steps, values = None, 0, dict(feeds)
        if self.interface.state:
            assert isinstance(state, TrtState)
            if state.owner is not self:
                raise FeedError("the state is of another session", hint="pass a state from session.new_state(batch)")
            check_batch(sizes, state.batch)
            steps, carried = new_steps(self.interface, sizes, state.length), state
            if (growing := self.interface.growing_dim) is not None:
                sizes[growing] = state.length
            values.update({name: np.array([state.length], np.int64) for name in self.interface.length_inputs})
        results = self._run(choose_profile(self._build.profiles, sizes), values, carried, steps)
        if carried is not None:
            carried.advance(steps)
        return results

    def copy(self, pieces: Callable[[], Sequence[Pieces]]) -> None:
        """Copy within the device's memory: how a state is cut back, or given other rows."""
        self._require_open()
        self._resources.cuda.use()
        # Within a lease, which `close` waits for: nothing is allocated after everything was freed.
        with self._resources.pool.lease() as lane:
            lane.copy(pieces())

    def _run(self, profile: int, values: Mapping[str, Array], state: TrtState | None, steps: int) -> dict[str, Array]:
        mine = self._resources
        mine.cuda.use()
        mine.memory.free_ended()
        with mine.pool.lease() as lane:
            started = time.perf_counter()
            results = lane.run(profile, values, state, steps, self._wanted)
            seconds = time.perf_counter() - started
        with self._lock:
            self.engine_seconds += seconds
            first, self._ran = not self._ran, True
        if first:
            # Kernels were compiled for this device just now: keep them, should the process be killed.
            mine.engine.save_cache()
        return results

    def close(self) -> None:
        """Release the engine and all states; waits for runs in other threads."""
        self._end()

    def __enter__(self) -> TrtSession:
        """The session, closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()
