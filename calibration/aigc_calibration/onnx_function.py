"""Open an ONNX graph as a function of all its inputs, run by ONNX Runtime's kernels for CPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_calibration.onnx_file import save_graph
from aigc_calibration.prepare import copy_graph
from aigc_runtime.backends.ort.denormals import isolated
from aigc_runtime.backends.ort.exact_products import EXACT_PRODUCTS, products_saturate
from aigc_runtime.backends.ort.rewrites import leave_out_rewrites
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError
from aigc_runtime.system.temporary_folder import temporary_folder

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Feeds", "OnnxFunction", "open_onnx", "open_watched", "opened_when_called"]

MAX_KEPT_BYTES = 2**29
"""Inner values that are kept until they are asked for; what goes beyond is computed again."""

Feeds = Mapping[str, Array]
OnnxFunction = Callable[[Feeds], dict[str, Array]]
"""Feeds by name, of which those that are no inputs are passed over -> results by name."""


def open_onnx(
    model: ir.Model | Path | bytes,
    *,
    expose: Sequence[str] = (),
    outputs: Sequence[str] | None = None,
    threads: int | None = None,
    optimize: bool = True,
    packed: bool | None = None,
) -> OnnxFunction:
    """Load a graph into ONNX Runtime.

    A model of ONNX IR goes through files, as a built graph will: one of 2 GiB or more has no other form.

    Args:
        model: the graph, which stays as it is; its file, beside which its external data lies; or a serialized graph
            without such data.
        expose: inputs and inner values of a model to return beside its outputs.
        outputs: names of the results to return; None returns all.
        threads: inside an operator; None takes the engine's default.
        optimize: let ONNX Runtime rewrite the graph; off where the nodes must run as they stand.
        packed: hold weights once more, in the order in which kernels read them, and keep memory from run to run: for
            many runs. None leaves that out for a model whose weights are so large that they have a file of their own.

    Raises:
        EngineError: the graph does not load.
        OutputError: there is no room for its files.
    """
    if isinstance(model, (bytes, Path)):
        source = str(model) if isinstance(model, Path) else model
        return _function(_load(source, threads, optimize=optimize, packed=packed is not False), outputs)
    if expose:
        model = _exposed(model, expose)
    with temporary_folder("onnx") as folder:
        paths = save_graph(model, folder / "model.onnx")
        packed = len(paths) == 1 if packed is None else packed
        return _function(_load(str(paths[0]), threads, optimize=optimize, packed=packed), outputs)


def opened_when_called(model: ir.Model, *, threads: int | None = None) -> OnnxFunction:
    """A graph as a function that loads it when it is called for the first time: most data never calls it."""
    opened: list[OnnxFunction] = []

    def run(feeds: Feeds) -> dict[str, Array]:
        if not opened:
            opened.append(open_onnx(model, threads=threads))
        return opened[0](feeds)

    return run


def open_watched(
    model: ir.Model, watched: Sequence[str], *, threads: int | None = None
) -> tuple[OnnxFunction, OnnxFunction]:
    """Load a graph once for two functions: of its own outputs, and of inputs and inner values by name.

    Data that runs the graph to make its batches feeds it what is watched afterwards. So the first function computes the
    inner values as well, and keeps those of the last run, and up to `MAX_KEPT_BYTES` of earlier ones, for the second,
    which then runs nothing where it is fed the very same arrays: the results are those of a run of its own. Where the
    values of one run are more than a quarter of that, only those of the last run are kept, as long as data asks for
    them before it runs the graph again; from then on none are, and the first function copies its own outputs alone.

    Raises:
        EngineError: the graph does not load.
        OutputError: there is no room for its files.
    """
    outputs = [str(value.name) for value in model.graph.outputs]
    if not watched:
        return opened_when_called(model, threads=threads), lambda _: {}
    with temporary_folder("onnx") as folder:
        paths = save_graph(_exposed(model, watched), folder / "model.onnx")
        session = _load(str(paths[0]), threads, optimize=True, packed=len(paths) == 1)
    whole = _function(session, [*outputs, *(n for n in watched if n not in outputs)])
    return _watching(whole, _function(session, outputs), outputs, watched)


def _watching(
    whole: OnnxFunction, plain: OnnxFunction, outputs: Sequence[str], watched: Sequence[str]
) -> tuple[OnnxFunction, OnnxFunction]:
    """Make two functions of one that gives all results, so that each run is for both, and of one of the outputs."""
    kept: list[tuple[Feeds, dict[str, Array]]] = []
    largest, asked_late = 0, False

    def run(feeds: Feeds) -> dict[str, Array]:
        nonlocal largest, asked_late
        if largest > MAX_KEPT_BYTES // 4:
            asked_late |= bool(kept)
            kept.clear()
            if asked_late:
                return plain(feeds)
        if sum(_bytes(inner) for _, inner in kept) > MAX_KEPT_BYTES:
            kept.clear()
        values = whole(feeds)
        inner = {name: values[name] for name in watched}
        largest = max(largest, _bytes(inner))
        kept.append((dict(feeds), inner))
        return {name: values[name] for name in outputs}

    def watch(feeds: Feeds) -> dict[str, Array]:
        for place, (fed, inner) in enumerate(kept):
            if _same(fed, feeds):
                del kept[place]
                return inner
        values = whole(feeds)
        return {name: values[name] for name in watched}

    return run, watch


def _bytes(values: Mapping[str, Array]) -> int:
    return sum(array.nbytes for array in values.values())


def _same(first: Feeds, second: Feeds) -> bool:
    """Check for the very same arrays: to compare the numbers of a language model's state takes longer than a run."""
    return first.keys() == second.keys() and all(array is second[name] for name, array in first.items())


def _exposed(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """Copy a model with these values as further outputs."""
    model = copy_graph(model)
    wanted = set(names) - {str(value.name) for value in model.graph.outputs}
    values = (*model.graph.inputs, *(value for node in model.graph for value in node.outputs))
    by_name = {str(value.name): value for value in values}
    model.graph.outputs.extend(by_name[name] for name in sorted(wanted))
    return model


def _load(source: str | bytes, threads: int | None, *, optimize: bool, packed: bool) -> Any:
    """Load a session."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised as well
    options.intra_op_num_threads = threads or 0
    options.enable_mem_pattern = False  # which holds the inner values of a run twice
    leave_out_rewrites(options)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not packed:
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False  # which grows by powers of two, and keeps what it has
        # Shape nodes come first: by default they come last, and hold every value that they read until then.
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if products_saturate(onnxruntime):  # a float graph has none, but quantized ones are opened here, too
        options.add_session_config_entry(EXACT_PRODUCTS, "1")
    try:
        return isolated(lambda: onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"]))
    except Exception as err:  # ONNX Runtime's own types share no base class
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load the graph: {err}",
            hint="use the onnxruntime in constraints.txt, or please report the model",
        ) from err


def _function(session: Any, outputs: Sequence[str] | None) -> OnnxFunction:
    """A session as a function of its inputs that gives these results; None gives all."""
    names = [o.name for o in session.get_outputs()] if outputs is None else list(outputs)
    inputs = {i.name for i in session.get_inputs()}

    def run(feeds: Feeds) -> dict[str, Array]:
        values = session.run(names, {name: array for name, array in feeds.items() if name in inputs})
        return dict(zip(names, values, strict=True))

    return run
