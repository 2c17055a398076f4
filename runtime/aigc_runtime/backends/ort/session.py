"""ONNX Runtime: on a CPU, the embedded default, or on another device by one of its providers."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aigc_runtime.backends.ort.binding import Binder, OrtState, Plan
from aigc_runtime.backends.ort.denormals import flushed
from aigc_runtime.backends.ort.open import import_onnxruntime, open_native
from aigc_runtime.backends.ort.providers import PROVIDERS
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.session import State
from aigc_runtime.core.state import (
    capacity_for,
    check_batch,
    check_rows,
    check_written,
    joined_rows,
    new_steps,
    require_specs,
    require_state,
    rows_of,
)
from aigc_runtime.core.tensors import Array, FeedChecker
from aigc_runtime.errors import AigcError, EngineError, EngineMemoryError, UnknownNameError

__all__ = ["OrtSession", "OrtState"]

_NO_MEMORY = ("Failed to allocate memory", "bad_alloc", "bad allocation", "Unable to allocate")
"""What ONNX Runtime says where an activation cannot be held, and numpy where carried state cannot."""


class OrtSession:
    """A `Session` over an ONNX graph.

    Args:
        model: the graph's bytes.
        folder: where the files lie that the graph names as external data; None for a graph that names none.
        interface: that the graph must have.
        threads: threads inside an operator; None takes all processors that the process may use.
        device: key of `PROVIDERS`; where it is not `cpu`, carried state stays in the device's memory.
        device_id: which of several devices.
        bound: bind inputs, outputs and state to the device; None: on every device but the CPU, whose memory is the
            caller's own. On a CPU it shows what another device would run.
        rows_apart: run several rows one after the other where a run adds several steps.

    Attributes:
        placement: for a device other than the CPU, provider -> number of nodes that it runs.

    Raises:
        EngineMissingError: onnxruntime is not installed, or was built without the provider.
        EngineError: the graph does not load, its inputs and outputs are not those announced, or another provider would
            run it.
        UnknownNameError: an unknown device.
    """

    def __init__(
        self,
        model: bytes,
        interface: Interface,
        *,
        folder: str | None = None,
        threads: int | None = None,
        device: str = "cpu",
        device_id: int = 0,
        bound: bool | None = None,
        rows_apart: bool = False,
    ) -> None:
        if device not in PROVIDERS:
            raise UnknownNameError("device", device, PROVIDERS)
        provider = PROVIDERS[device]
        self.ort = import_onnxruntime(provider)
        self.interface = interface
        self._checker = FeedChecker(interface.inputs, interface.dims_by_name)
        self.native, self.placement = open_native(
            self.ort,
            model,
            provider=provider,
            device_id=device_id,
            folder=folder,
            threads=threads,
            repeats=bool(interface.state),
        )
        self._bound = device != "cpu" if bound is None else bound
        self._rows_apart = rows_apart
        self._binder = Binder(ort=self.ort, device=device, device_id=device_id, rebind=self._bound)
        self._output_names = [s.name for s in interface.outputs]
        self._all_names = list(interface.graph_outputs)
        self._in_place = [s for s in interface.state if s.behavior.in_place]
        self._moving = [s for s in interface.state if not s.behavior.in_place]
        self.engine_seconds = 0.0
        self._check_interface()

    def _check_interface(self) -> None:
        interface = self.interface
        wanted = ({s.name for s in interface.graph_inputs}, set(interface.graph_outputs))
        found = ({i.name for i in self.native.get_inputs()}, {o.name for o in self.native.get_outputs()})
        for kind, want, have in zip(("inputs", "outputs"), wanted, found, strict=True):
            if want != have:
                raise EngineError(
                    f"the graph's {kind} are {sorted(have)}, the manifest announces {sorted(want)}",
                    hint="the bundle is inconsistent: export it again",
                )
        specs = {s.name: (s.dtype, s.shape) for s in (*interface.graph_inputs, *interface.outputs)}
        for node in (*self.native.get_inputs(), *self.native.get_outputs()):
            if node.name in specs:
                _check_tensor(node, *specs[node.name])

    def new_state(self, batch: int) -> OrtState:
        """Empty carried state for `batch` rows."""
        batch = check_rows(batch, self.interface)
        try:
            return OrtState(self._binder, self.interface.state, batch)
        except Exception as err:  # ONNX Runtime's own types share no base class
            raise EngineError(f"no carried state can be made for {batch} rows: {err}", hint="use fewer rows") from err

    def run(self, feeds: Mapping[str, Array], state: State | None = None) -> dict[str, Array]:
        """Run one step; see `Session.run`."""
        if self.native is None:
            raise EngineError("the session is closed", hint="open the bundle again")
        bound = self._checker.check(feeds)
        require_state(state, OrtState, self.interface)
        try:
            if not self.interface.state:
                with flushed():
                    return self._run_stateless(feeds)
            assert isinstance(state, OrtState)
            require_specs(state.specs, self.interface)
            check_batch(bound, state.batch)
            steps = new_steps(self.interface, bound, state.length)
            state.reserve(capacity_for(self.interface, state.length + steps, state.capacity))
            with flushed():
                if self._rows_apart and steps > 1 and state.batch > 1:
                    results = self._run_apart(feeds, state, bound, steps)
                else:
                    results = self._run_rows(feeds, state, bound, steps)
        except AigcError:
            raise
        except Exception as err:  # ONNX Runtime's own types share no base class
            if any(sign in str(err) for sign in _NO_MEMORY):
                raise _memory_error(str(err), feeds) from err
            hint = "run `aigc-run verify` on the bundle"
            raise EngineError(f"ONNX Runtime failed: {str(err).strip()}", hint=hint) from err
        state.length += steps
        return results

    def _run_stateless(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        started = time.perf_counter()
        if self._bound:
            values = {name: self._binder.value(array) for name, array in feeds.items()}
            results, _ = self._binder.run(self.native, values, self._output_names, [])
        else:
            arrays = self.native.run(self._output_names, dict(feeds))
            results = dict(zip(self._output_names, arrays, strict=True))
        self.engine_seconds += time.perf_counter() - started
        return results

    def _run_rows(
        self, feeds: Mapping[str, Array], state: OrtState, bound: Mapping[str, int], steps: int
    ) -> dict[str, Array]:
        if self.interface.has_steady_state:
            return self._run_planned(feeds, state, bound)
        return self._run_growing(feeds, state, steps)

    def _run_apart(
        self, feeds: Mapping[str, Array], state: OrtState, bound: Mapping[str, int], steps: int
    ) -> dict[str, Array]:
        """A row at a time; the carried state goes through the host's memory."""
        parts = [state.of_row(row) for row in range(state.batch)]
        one = {**bound, "batch": 1}
        found = [
            self._run_rows(rows_of(feeds, self.interface.inputs, row), part, one, steps)
            for row, part in enumerate(parts)
        ]
        state.join(parts)
        return joined_rows(found, self.interface.outputs)

    def _run_growing(self, feeds: Mapping[str, Array], state: OrtState, steps: int) -> dict[str, Array]:
        """Past values go in as they came out; the engine allocates the new ones, where the old ones are.

        What it may write in place it writes in place.
        """
        values = {name: self._binder.value(array) for name, array in feeds.items()}
        values.update(state.values)
        values.update(
            {name: self._binder.value(np.array([state.length], np.int64)) for name in self.interface.length_inputs}
        )
        count = len(self._output_names)
        started = time.perf_counter()
        if self._bound or self._in_place:
            placed = {s.output: state.values[s.input] for s in self._in_place}
            arrays, kept = self._binder.run(
                self.native, values, self._output_names, [s.output for s in self._moving], placed
            )
        else:
            results = self.native.run_with_ort_values(self._all_names, values)
            arrays = {name: v.numpy() for name, v in zip(self._output_names, results[:count], strict=True)}
            kept = results[count:]
        self.engine_seconds += time.perf_counter() - started
        if state.length == 0:
            shapes = {s.output: v.shape() for s, v in zip(self._moving, kept, strict=True)}
            placed_shapes = {s.output: s.empty_shape(state.batch, state.capacity) for s in self._in_place}
            check_written(self.interface, state.batch, steps, {**shapes, **placed_shapes}, state.capacity)
        state.values.update({s.input: value for s, value in zip(self._moving, kept, strict=True)})
        return arrays

    def _run_planned(self, feeds: Mapping[str, Array], state: OrtState, bound: Mapping[str, int]) -> dict[str, Array]:
        """The state stays where it is; inputs and outputs are reused for equal shapes."""
        shapes = tuple(feeds[spec.name].shape for spec in self.interface.inputs)
        plan = state.plans.get((self.native, shapes))
        if plan is None:
            plan = state.plans[self.native, shapes] = Plan(
                self.native, self._binder, state, self.interface, feeds, bound
            )
        started = time.perf_counter()
        results = plan.run(feeds, state)
        self.engine_seconds += time.perf_counter() - started
        return results

    def close(self) -> None:
        """Release the engine."""
        self.native = None

    def __enter__(self) -> OrtSession:
        """The session, closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def _memory_error(said: str, feeds: Mapping[str, Array]) -> EngineMemoryError:
    """What ONNX Runtime could not hold, and what it was run on."""
    size = re.search(r"buffer of size (\d{1,30})", said)
    needed = f": {int(size[1]) / 2**30:,.1f} GiB for one value inside the network" if size else ""
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
    return EngineMemoryError(
        f"the memory does not suffice for a run on {shapes}{needed}",
        hint="ask for smaller samples, for fewer at once, or use a machine with more memory",
    )


_NATIVE_TYPES = {"float": "float32", "float16": "float16"}
"""Element types that ONNX Runtime calls otherwise than numpy."""


def _check_tensor(node: Any, dtype: str, shape: Sequence[int | str]) -> None:
    """Refuse a tensor of the graph that is of another type or size than the manifest announces."""
    native = node.type.removeprefix("tensor(").removesuffix(")")
    differs = len(node.shape) != len(shape) or any(
        isinstance(there, int) and isinstance(said, int) and there != said
        for there, said in zip(node.shape, shape, strict=False)
    )
    if _NATIVE_TYPES.get(native, native) != dtype or differs:
        raise EngineError(
            f"the graph's {node.name!r} is {native} {list(node.shape)}, the manifest announces {dtype} {list(shape)}",
            hint="the bundle is inconsistent: export it again",
        )
