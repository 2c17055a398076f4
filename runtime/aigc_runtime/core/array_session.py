"""A session over a plain function of arrays; state is carried in numpy.

Tests wrap a formula; the toolchain wraps a PyTorch module. Both go through the same checks as a real engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from aigc_runtime.core.interface import Interface
from aigc_runtime.core.session import State
from aigc_runtime.core.state import (
    capacity_for,
    check_batch,
    check_length,
    check_rows,
    check_selection,
    check_written,
    enlarged,
    new_steps,
    require_specs,
    require_state,
    take_rows,
)
from aigc_runtime.core.tensors import Array, FeedChecker, StateSpec
from aigc_runtime.errors import EngineError

__all__ = ["ArraySession", "ArrayState"]


class ArrayState:
    """Carried state as arrays by input name."""

    def __init__(self, specs: tuple[StateSpec, ...], batch: int) -> None:
        self.specs, self.batch = specs, batch
        self.length = self.capacity = 0
        self.arrays = {s.input: np.zeros(s.empty_shape(batch), dtype=s.dtype) for s in specs}

    def truncate(self, length: int) -> None:
        """Forget all steps but the first `length`; see `State.truncate`."""
        left = check_length(self.specs, self.length, length)
        for spec in self.specs:
            if not spec.behavior.is_steady and spec.axis is not None:
                self.arrays[spec.input] = np.take(self.arrays[spec.input], range(left), axis=spec.axis)
        self.length = left

    def reserve(self, capacity: int) -> None:
        """Give the buffers whose capacity is a dimension as many places."""
        if capacity > self.capacity:
            buffers = [spec for spec in self.specs if spec.capacity_dim is not None]
            made = {s.input: enlarged(self.arrays[s.input], s, capacity, self.length) for s in buffers}
            self.arrays, self.capacity = self.arrays | made, capacity

    def select(self, rows: Sequence[int]) -> None:
        """Hold these rows; see `State.select`."""
        selected = check_selection(rows, self.batch)
        for spec in self.specs:
            self.arrays[spec.input] = take_rows(self.arrays[spec.input], spec, selected, self.length)
        self.batch = len(selected)


class ArraySession:
    """A `Session` over `function`.

    Args:
        function: all graph inputs by name (state and its length included) -> all graph outputs by name.
        interface: of that function.
    """

    def __init__(self, function: Callable[[Mapping[str, Array]], Mapping[str, Array]], interface: Interface) -> None:
        self._function: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = function
        self.interface = interface
        self._checker = FeedChecker(interface.inputs, interface.dims_by_name)
        self.engine_seconds = 0.0

    def new_state(self, batch: int) -> ArrayState:
        """Empty carried state for `batch` rows."""
        return ArrayState(self.interface.state, check_rows(batch, self.interface))

    def run(self, feeds: Mapping[str, Array], state: State | None = None) -> dict[str, Array]:
        """Run one step; see `Session.run`."""
        if self._function is None:
            raise EngineError("the session is closed", hint="open the bundle again")
        bound = self._checker.check(feeds)
        values = dict(feeds)
        require_state(state, ArrayState, self.interface)
        steps, specs = 0, self.interface.state
        if isinstance(state, ArrayState) and specs:
            require_specs(state.specs, self.interface)
            check_batch(bound, state.batch)
            steps = new_steps(self.interface, bound, state.length)
            state.reserve(capacity_for(self.interface, state.length + steps, state.capacity))
            values.update(state.arrays)
            values.update({name: np.array([state.length], np.int64) for name in self.interface.length_inputs})
        started = time.perf_counter()
        results = self._function(values)
        self.engine_seconds += time.perf_counter() - started
        if isinstance(state, ArrayState) and specs:
            shapes = {s.output: results[s.output].shape for s in specs}
            check_written(self.interface, state.batch, state.length + steps, shapes, state.capacity)
            state.arrays = {s.input: np.asarray(results[s.output]) for s in specs}
            state.length += steps
        return {spec.name: np.asarray(results[spec.name]) for spec in self.interface.outputs}

    def close(self) -> None:
        """Release the function."""
        self._function = None

    def __enter__(self) -> ArraySession:
        """The session, closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()
