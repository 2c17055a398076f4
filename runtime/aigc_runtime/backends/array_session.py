"""A session over a plain function of arrays; state is carried in numpy.

Tests wrap a formula; the toolchain wraps a PyTorch module. Both go through the same checks as a real engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from aigc_runtime.backends.state import check_batch, check_rows, new_steps, require_state
from aigc_runtime.errors import EngineError
from aigc_runtime.session import State
from aigc_runtime.tensors import Array, DimSpec, FeedChecker, StateSpec, TensorSpec

__all__ = ["ArraySession", "ArrayState"]


class ArrayState:
    """Carried state as arrays by input name."""

    def __init__(self, specs: Sequence[StateSpec], batch: int) -> None:
        self.batch = batch
        self.length = 0
        self.arrays = {s.input: np.zeros(s.empty_shape(batch), dtype=s.dtype) for s in specs}


class ArraySession:
    """A `Session` over `function`.

    Args:
        function: all graph inputs by name (state and its length included) -> all graph outputs by name.
        inputs: what the caller feeds.
        outputs: what `run` returns.
        dims: the named dimensions.
        state: carried state.
    """

    def __init__(
        self,
        function: Callable[[Mapping[str, Array]], Mapping[str, Array]],
        *,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        dims: Sequence[DimSpec] = (),
        state: Sequence[StateSpec] = (),
    ) -> None:
        self._function: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = function
        self._inputs, self._outputs, self._state = tuple(inputs), tuple(outputs), tuple(state)
        self._dims = {d.name: d for d in dims}
        self._checker = FeedChecker(inputs, self._dims)
        self.engine_seconds = 0.0

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the caller feeds."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""
        return self._outputs

    @property
    def dims(self) -> Mapping[str, DimSpec]:
        """The named dynamic dimensions."""
        return self._dims

    def new_state(self, batch: int) -> ArrayState:
        """Empty carried state for `batch` rows."""
        batch = check_rows(batch, self._dims)
        return ArrayState(self._state, batch)

    def run(self, feeds: Mapping[str, Array], state: State | None = None) -> dict[str, Array]:
        """Run one step; see `Session.run`."""
        if self._function is None:
            raise EngineError("the session is closed", hint="open the bundle again")
        bound = self._checker.check(feeds)
        values = dict(feeds)
        require_state(state, ArrayState, self._state)
        steps = 0
        if isinstance(state, ArrayState) and self._state:
            check_batch(bound, state.batch)
            steps = new_steps(self._state, bound, state.length, self._dims)
            values.update(state.arrays)
            values.update({s.length_input: np.array([state.length], np.int64) for s in self._state if s.length_input})
        started = time.perf_counter()
        results = self._function(values)
        self.engine_seconds += time.perf_counter() - started
        if isinstance(state, ArrayState) and self._state:
            state.arrays = {s.input: np.asarray(results[s.output]) for s in self._state}
            state.length += steps
        return {spec.name: np.asarray(results[spec.name]) for spec in self._outputs}

    def close(self) -> None:
        """Release the function."""
        self._function = None

    def __enter__(self) -> ArraySession:
        """The session, closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()
