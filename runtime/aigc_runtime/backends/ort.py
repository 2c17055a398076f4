"""ONNX Runtime on a CPU: the embedded default."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aigc_runtime.backends.state import check_batch, check_rows, new_steps, require_state
from aigc_runtime.errors import AigcError, EngineError, EngineMissingError
from aigc_runtime.session import State
from aigc_runtime.tensors import Array, DimSpec, FeedChecker, StateSpec, TensorSpec

__all__ = ["OrtSession", "OrtState", "available_threads"]

PROVIDER = "CPUExecutionProvider"


def available_threads() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as err:
        raise EngineMissingError(
            "this bundle needs ONNX Runtime, which is not installed", hint="pip install 'aigc-runtime[ort]'"
        ) from err
    return onnxruntime


class OrtState:
    """Carried state as ONNX Runtime values; they never become numpy arrays between steps."""

    def __init__(self, ort: Any, specs: Sequence[StateSpec], batch: int) -> None:
        self.batch = batch
        self.length = 0
        self.values = {
            s.input: ort.OrtValue.ortvalue_from_numpy(np.zeros(s.empty_shape(batch), dtype=s.dtype), "cpu", 0)
            for s in specs
        }
        self.plans: dict[tuple[tuple[int, ...], ...], _Plan] = {}


class _Plan:
    """A binding that is made once and run many times: fixed input and output buffers for one set of shapes."""

    def __init__(
        self, session: OrtSession, state: OrtState, feeds: Mapping[str, Array], bound: Mapping[str, int]
    ) -> None:
        make = session.ort.OrtValue.ortvalue_from_numpy
        self.binding = session.native.io_binding()
        self.length = np.zeros(1, dtype=np.int64)
        self.inputs = {name: array.copy() for name, array in feeds.items()}
        self.outputs = {s.name: np.empty(_resolve(s, bound), dtype=s.dtype) for s in session.outputs}
        # The values borrow the arrays' memory, so both are kept.
        self.values = {name: make(array, "cpu", 0) for name, array in self.inputs.items()}
        self.values.update({s.length_input: make(self.length, "cpu", 0) for s in session.state if s.length_input})
        for name, value in self.values.items():
            self.binding.bind_ortvalue_input(name, value)
        results = {name: make(array, "cpu", 0) for name, array in self.outputs.items()}
        self.results = results
        for name, value in results.items():
            self.binding.bind_ortvalue_output(name, value)
        for spec in session.state:
            self.binding.bind_ortvalue_input(spec.input, state.values[spec.input])
            self.binding.bind_ortvalue_output(spec.output, state.values[spec.input])


def _resolve(spec: TensorSpec, bound: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(n if isinstance(n, int) else bound[n] for n in spec.shape)


class OrtSession:
    """A `Session` over an ONNX graph.

    Args:
        model: the graph's bytes.
        folder: where the files lie that the graph names as external data; None for a graph that names none.
        inputs: what the caller feeds.
        outputs: what `run` returns.
        dims: the named dimensions.
        state: carried state.
        threads: threads inside an operator; None takes all processors that the process may use.

    Raises:
        EngineMissingError: onnxruntime is not installed.
        EngineError: the graph does not load, or its inputs and outputs are not those announced.
    """

    def __init__(
        self,
        model: bytes,
        *,
        folder: str | None = None,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        dims: Sequence[DimSpec] = (),
        state: Sequence[StateSpec] = (),
        threads: int | None = None,
    ) -> None:
        self.ort = _import_onnxruntime()
        self.inputs, self.outputs, self.state = tuple(inputs), tuple(outputs), tuple(state)
        self._dims = {d.name: d for d in dims}
        self._checker = FeedChecker(inputs, self._dims)
        self.native: Any = self._open(model, folder, threads)
        self._output_names = [s.name for s in self.outputs]
        self._all_names = [*self._output_names, *(s.output for s in self.state)]
        self._state_inputs = [s.input for s in self.state]
        self.engine_seconds = 0.0
        self._check_interface()

    def _open(self, model: bytes, folder: str | None, threads: int | None) -> Any:
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = threads or available_threads()
        options.inter_op_num_threads = 1
        options.graph_optimization_level = self.ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        # Spinning threads steal time from everything else on the device.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        if folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        try:
            session = self.ort.InferenceSession(model, options, providers=[PROVIDER])
        except Exception as err:
            raise EngineError(
                f"ONNX Runtime {self.ort.__version__} cannot load the graph: {err}",
                hint="upgrade onnxruntime, or export the bundle again with an older opset",
            ) from err
        if session.get_providers()[0] != PROVIDER:
            raise EngineError(f"asked for {PROVIDER}, ONNX Runtime runs {session.get_providers()[0]}")
        return session

    def _check_interface(self) -> None:
        lengths = {s.length_input for s in self.state if s.length_input}
        wanted = (
            {s.name for s in self.inputs} | {s.input for s in self.state} | lengths,
            {s.name for s in self.outputs} | {s.output for s in self.state},
        )
        found = ({i.name for i in self.native.get_inputs()}, {o.name for o in self.native.get_outputs()})
        for kind, want, have in zip(("inputs", "outputs"), wanted, found, strict=True):
            if want != have:
                raise EngineError(
                    f"the graph's {kind} are {sorted(have)}, the manifest announces {sorted(want)}",
                    hint="the bundle is inconsistent: export it again",
                )

    @property
    def dims(self) -> Mapping[str, DimSpec]:
        """The named dynamic dimensions."""
        return self._dims

    def new_state(self, batch: int) -> OrtState:
        """Empty carried state for `batch` rows."""
        check_rows(batch, self._dims)
        try:
            return OrtState(self.ort, self.state, batch)
        except MemoryError as err:
            raise EngineError(f"no memory for the carried state of {batch} rows", hint="use fewer rows") from err

    def run(self, feeds: Mapping[str, Array], state: State | None = None) -> dict[str, Array]:
        """Run one step; see `Session.run`."""
        if self.native is None:
            raise EngineError("the session is closed", hint="open the bundle again")
        bound = self._checker.check(feeds)
        require_state(state, OrtState, self.state)
        try:
            if not self.state:
                started = time.perf_counter()
                values = self.native.run(self._output_names, dict(feeds))
                self.engine_seconds += time.perf_counter() - started
                return dict(zip(self._output_names, values, strict=True))
            assert isinstance(state, OrtState)
            check_batch(bound, state.batch)
            steps = new_steps(self.state, bound, state.length, self._dims)
            run = self._run_growing if self.state[0].kind == "growing" else self._run_buffer
            results = run(feeds, state, bound)
        except AigcError:
            raise
        except Exception as err:  # ONNX Runtime's own types share no base class
            raise EngineError(f"ONNX Runtime failed: {err}", hint="run `aigc-run verify` on the bundle") from err
        state.length += steps
        return results

    def _run_growing(self, feeds: Mapping[str, Array], state: OrtState, _bound: Mapping[str, int]) -> dict[str, Array]:
        """Past values go in as they came out; the engine allocates the grown ones."""
        make = self.ort.OrtValue.ortvalue_from_numpy
        values = {name: make(np.ascontiguousarray(array), "cpu", 0) for name, array in feeds.items()}
        values.update(state.values)
        started = time.perf_counter()
        results = self.native.run_with_ort_values(self._all_names, values)
        self.engine_seconds += time.perf_counter() - started
        count = len(self._output_names)
        state.values = dict(zip(self._state_inputs, results[count:], strict=True))
        return {name: v.numpy() for name, v in zip(self._output_names, results[:count], strict=True)}

    def _run_buffer(self, feeds: Mapping[str, Array], state: OrtState, bound: Mapping[str, int]) -> dict[str, Array]:
        """The buffers stay where they are; input and output arrays are reused for equal shapes."""
        shapes = tuple(feeds[spec.name].shape for spec in self.inputs)
        plan = state.plans.get(shapes)
        if plan is None:
            plan = state.plans[shapes] = _Plan(self, state, feeds, bound)
        for name, array in feeds.items():
            plan.inputs[name][...] = array
        plan.length[0] = state.length
        started = time.perf_counter()
        self.native.run_with_iobinding(plan.binding)
        self.engine_seconds += time.perf_counter() - started
        return {name: array.copy() for name, array in plan.outputs.items()}

    def close(self) -> None:
        """Release the engine."""
        self.native = None
