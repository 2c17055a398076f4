"""Values of ONNX Runtime on a device: carried state that stays there, and inputs and outputs bound for a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, StateSpec, TensorSpec

__all__ = ["Binder", "OrtState", "Plan"]


class OrtState:
    """Carried state as ONNX Runtime values on the engine's device; between steps they never become numpy arrays.

    Sessions of one program may take turns on it; `plans` holds what each of them bound for each set of shapes.
    """

    def __init__(self, binder: Binder, specs: Sequence[StateSpec], batch: int) -> None:
        self.batch = batch
        self.length = 0
        self.values = {s.input: binder.value(np.zeros(s.empty_shape(batch), dtype=s.dtype)) for s in specs}
        self.plans: dict[tuple[object, tuple[tuple[int, ...], ...]], Plan] = {}


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
        self, native: Any, inputs: Mapping[str, Any], outputs: Sequence[str], kept: Sequence[str]
    ) -> tuple[dict[str, Array], list[Any]]:
        """Run once, with results of any shape.

        Args:
            native: ONNX Runtime's session.
            inputs: name -> value, wherever it lies.
            outputs: results that the caller wants as arrays.
            kept: results that stay on the device.

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
        binding.synchronize_inputs()  # copies that binding began may still be under way
        native.run_with_iobinding(binding)
        results = binding.get_outputs()
        arrays = {name: value.numpy() for name, value in zip(outputs, results, strict=False)}
        return arrays, results[len(outputs) :]


class Plan:
    """A binding that is made once and run many times: fixed buffers for one set of shapes, carried state in place.

    Args:
        native: ONNX Runtime's session.
        binder: its device.
        state: bound as input and as output, so that the engine writes the new steps where the old ones are.
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
        length = interface.length_input
        self._lengths = {} if length is None else {length: binder.value(np.zeros(1, np.int64))}
        self._state = {s.input: state.values[s.input] for s in interface.state}
        self._bind_inputs()
        # Results are read on the host: they are copied there at the end of a run. The values borrow these arrays.
        self._arrays = {s.name: np.empty(_resolve(s, sizes), dtype=s.dtype) for s in interface.outputs}
        make = binder.ort.OrtValue.ortvalue_from_numpy
        self._results = {name: make(array, "cpu", 0) for name, array in self._arrays.items()}
        for name, value in self._results.items():
            self._binding.bind_ortvalue_output(name, value)
        for spec in interface.state:
            self._binding.bind_ortvalue_output(spec.output, self._state[spec.input])

    def _bind_inputs(self) -> None:
        for name, value in (*self._inputs.items(), *self._lengths.items(), *self._state.items()):
            self._binding.bind_ortvalue_input(name, value)

    def run(self, feeds: Mapping[str, Array], held: int) -> dict[str, Array]:
        """Run on arrays of the same shapes.

        Args:
            feeds: what changed since the last run.
            held: steps that the state holds.

        Returns:
            Arrays of the caller's own.
        """
        for name, array in feeds.items():
            self._inputs[name].update_inplace(np.ascontiguousarray(array))
        for value in self._lengths.values():
            value.update_inplace(np.array([held], dtype=np.int64))
        if self._rebind:
            self._bind_inputs()
            self._binding.synchronize_inputs()  # copies that binding began may still be under way
        self._native.run_with_iobinding(self._binding)
        return {name: array.copy() for name, array in self._arrays.items()}


def _resolve(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(n if isinstance(n, int) else sizes[n] for n in spec.shape)
