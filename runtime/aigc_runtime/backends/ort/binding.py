"""Values of ONNX Runtime on a device: carried state that stays there, and inputs and outputs bound for a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from aigc_runtime.core.interface import Interface
from aigc_runtime.core.sizes import shape_value
from aigc_runtime.core.state import check_length, check_selection, enlarged, take_rows
from aigc_runtime.core.tensors import Array, StateSpec

__all__ = ["Binder", "OrtState", "Plan"]


class OrtState:
    """Carried state as ONNX Runtime values on the engine's device; between steps they never become numpy arrays.

    Sessions of one program may take turns on it; `plans` holds what each of them bound for each set of shapes.

    Attributes:
        specs: of its tensors.
        batch: rows.
        length: steps taken so far.
        capacity: places of the buffers whose capacity is a dimension.
        values: what the next run reads, by the inputs' names.
        spares: where the next run writes tensors that are not written in place, if all of them keep their shapes: the
            two change places after it.
        plans: of the sessions, by session and shapes.
    """

    def __init__(self, binder: Binder, specs: tuple[StateSpec, ...], batch: int) -> None:
        self._binder, self.specs, self.batch = binder, specs, batch
        self.length = self.capacity = 0
        self.values = {s.input: binder.value(np.zeros(s.empty_shape(batch), dtype=s.dtype)) for s in specs}
        self.spares = self._empty_spares()
        self.plans: dict[tuple[object, tuple[tuple[int, ...], ...]], Plan] = {}

    def _empty_spares(self) -> dict[str, Any]:
        steady = all(s.behavior.is_steady for s in self.specs)  # a session that lets others grow is given new values
        moving = [s for s in self.specs if steady and not s.behavior.in_place]
        return {s.input: self._binder.value(np.zeros(s.empty_shape(self.batch), dtype=s.dtype)) for s in moving}

    def reserve(self, capacity: int) -> None:
        """Give the buffers whose capacity is a dimension as many places. They go through the host's memory."""
        if capacity > self.capacity:
            buffers = [spec for spec in self.specs if spec.capacity_dim is not None]
            made = [enlarged(self.values[spec.input].numpy(), spec, capacity, self.length) for spec in buffers]
            for spec, array in zip(buffers, made, strict=True):
                self._put(spec, array)
            # What was bound were the values that are gone.
            self.capacity, self.plans = capacity, {}

    def truncate(self, length: int) -> None:
        """Forget all steps but the first `length`; see `State.truncate`. What grows goes through the host's memory."""
        left = check_length(self.specs, self.length, length)
        if left < self.length:
            for spec in self.specs:
                if not spec.behavior.is_steady:
                    self._put(spec, np.take(self.values[spec.input].numpy(), range(left), axis=spec.axis))
        self.length = left

    def select(self, rows: Sequence[int]) -> None:
        """Hold these rows; see `State.select`. The tensors go through the host's memory."""
        selected = check_selection(rows, self.batch)
        if selected == list(range(self.batch)):
            return
        for spec in self.specs:
            self._put(spec, take_rows(self.values[spec.input].numpy(), spec, selected, self.length))
        self.batch = len(selected)
        # What was bound were the values that are gone.
        self.spares, self.plans = self._empty_spares(), {}

    def of_row(self, row: int) -> OrtState:
        """The state of one row, by itself."""
        alone = OrtState(self._binder, self.specs, 1)
        alone.length, alone.capacity = self.length, self.capacity
        for spec in self.specs:
            alone._put(spec, take_rows(self.values[spec.input].numpy(), spec, [row], self.length))
        return alone

    def join(self, rows: Sequence[OrtState]) -> None:
        """Hold what the states of the rows hold."""
        for spec in self.specs:
            arrays = [one.values[spec.input].numpy() for one in rows]
            self._put(spec, np.concatenate(arrays, axis=spec.batch_axis))
        # What was bound were the values that are gone.
        self.plans = {}

    def _put(self, spec: StateSpec, array: Array) -> None:
        self.values[spec.input] = self._binder.value(array)


@dataclass(frozen=True, kw_only=True)
class Binder:
    """The device that a session's values lie on.

    Attributes:
        ort: the module.
        device: its name of the device: `cpu`, `cuda`.
        device_id: which of several.
        rebind: bind inputs again for every run of a plan. ONNX Runtime copies an input to where its first reader runs,
            and does so when it is bound: one that is read on the host would keep the number of the first run
            (onnxruntime issue 5857).
    """

    ort: Any
    device: str
    device_id: int
    rebind: bool

    def value(self, array: Array) -> Any:
        """An array as a value on the device; on a CPU it borrows the array's memory where that is contiguous."""
        if not array.size:  # nothing to copy, and a device may refuse a copy of nothing
            return self.ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, self.device, self.device_id)
        return self.ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.device, self.device_id)

    def run(
        self,
        native: Any,
        inputs: Mapping[str, Any],
        outputs: Sequence[str],
        kept: Sequence[str],
        placed: Mapping[str, Any] = MappingProxyType({}),
    ) -> tuple[dict[str, Array], list[Any]]:
        """Run once, with results of any shape.

        Args:
            native: ONNX Runtime's session.
            inputs: name -> value, wherever it lies.
            outputs: results that the caller wants as arrays.
            kept: results that stay on the device.
            placed: results that are written into values that are there already.

        Returns:
            The arrays, and the values of `kept` in that order.
        """
        binding = native.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, "cpu")
        for name in kept:
            binding.bind_output(name, self.device, self.device_id)
        for name, value in placed.items():
            binding.bind_ortvalue_output(name, value)
        binding.synchronize_inputs()  # copies that binding began may still be under way
        native.run_with_iobinding(binding)
        results = binding.get_outputs()
        arrays = {name: value.numpy() for name, value in zip(outputs, results, strict=False)}
        return arrays, results[len(outputs) : len(outputs) + len(kept)]


class Plan:
    """A binding that is made once and run many times, for an engine whose carried state keeps its shapes.

    A tensor that may be written in place is bound as input and as output, so that the engine writes the new steps where
    the old ones are. Another one has two places, which are bound again for every run.

    Args:
        native: ONNX Runtime's session.
        binder: its device.
        state: whose tensors are bound.
        interface: of the engine.
        feeds: of the shapes that the plan is for.
        sizes: of the named dimensions.
    """

    def __init__(
        self,
        native: Any,
        binder: Binder,
        state: OrtState,
        interface: Interface,
        feeds: Mapping[str, Array],
        sizes: Mapping[str, int],
    ) -> None:
        self._native, self._rebind = native, binder.rebind
        self._binding = native.io_binding()
        self._inputs = {name: binder.value(array.copy()) for name, array in feeds.items()}
        self._lengths = {name: binder.value(np.zeros(1, np.int64)) for name in interface.length_inputs}
        in_place = [spec for spec in interface.state if spec.behavior.in_place]
        self._moving = [spec for spec in interface.state if not spec.behavior.in_place]
        self._state = {s.input: state.values[s.input] for s in in_place}
        self._bind_inputs()
        # Results are read on the host: they are copied there at the end of a run. The values borrow these arrays.
        self._arrays = {s.name: np.empty(shape_value(s.shape, sizes), dtype=s.dtype) for s in interface.outputs}
        make = binder.ort.OrtValue.ortvalue_from_numpy
        self._results = {name: make(array, "cpu", 0) for name, array in self._arrays.items()}
        for name, value in self._results.items():
            self._binding.bind_ortvalue_output(name, value)
        for spec in in_place:
            self._binding.bind_ortvalue_output(spec.output, self._state[spec.input])

    def _bind_inputs(self) -> None:
        for name, value in (*self._inputs.items(), *self._lengths.items(), *self._state.items()):
            self._binding.bind_ortvalue_input(name, value)

    def run(self, feeds: Mapping[str, Array], state: OrtState) -> dict[str, Array]:
        """Run on arrays of the same shapes.

        Args:
            feeds: what changed since the last run.
            state: whose tensors are read and written.

        Returns:
            Arrays of the caller's own.
        """
        for name, array in feeds.items():
            self._inputs[name].update_inplace(np.ascontiguousarray(array))
        for value in self._lengths.values():
            value.update_inplace(np.array([state.length], dtype=np.int64))
        if self._rebind:
            self._bind_inputs()
        for spec in self._moving:
            self._binding.bind_ortvalue_input(spec.input, state.values[spec.input])
            self._binding.bind_ortvalue_output(spec.output, state.spares[spec.input])
        if self._rebind:
            self._binding.synchronize_inputs()  # copies that binding began may still be under way
        self._native.run_with_iobinding(self._binding)
        for spec in self._moving:
            name = spec.input
            state.values[name], state.spares[name] = state.spares[name], state.values[name]
        return {name: array.copy() for name, array in self._arrays.items()}
