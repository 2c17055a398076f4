"""Float graphs at work: ONNX Runtime as a function of all inputs of a graph."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aigc_runtime.backends.denormals import isolated
from aigc_runtime.backends.exact_products import EXACT_PRODUCTS, products_saturate
from aigc_runtime.backends.rewrites import leave_out_rewrites
from aigc_runtime.errors import EngineError
from aigc_runtime.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Feeds", "graph_digest", "open_bytes", "open_graph"]

Feeds = Mapping[str, Array]


def graph_digest(model: ir.Model) -> str:
    """SHA-256 of what a graph computes: operators, wiring, attributes and weights, but no metadata."""
    digest = hashlib.sha256()
    for value in (*model.graph.inputs, *model.graph.outputs):
        digest.update(f"{value.name}:{value.dtype}:{value.shape}\n".encode())
    for name in sorted(model.graph.initializers):
        tensor = model.graph.initializers[name].const_value
        if tensor is not None:
            digest.update(f"{name}:{tensor.dtype}:{tensor.shape}\n".encode())
            digest.update(tensor.tobytes())
    for node in model.graph:
        inputs = [v.name if v is not None else "" for v in node.inputs]
        attributes = sorted(f"{k}={v.value!r}" for k, v in node.attributes.items())
        digest.update(f"{node.domain}:{node.op_type}:{inputs}:{[o.name for o in node.outputs]}".encode())
        digest.update(f"{attributes}\n".encode())
    return digest.hexdigest()


def open_graph(
    model: ir.Model, *, expose: Sequence[str] = (), threads: int | None = None, optimise: bool = True
) -> Callable[[Feeds], dict[str, Array]]:
    """Load a graph into ONNX Runtime as a function of all its inputs.

    Args:
        model: the graph; it is copied.
        expose: inner values to return beside the outputs.
        threads: inside an operator; None takes the engine's default.
        optimise: let ONNX Runtime rewrite the graph; off where the nodes must run as they stand.

    Returns:
        feeds by name -> outputs and exposed values by name.

    Raises:
        EngineError: the graph does not load.
    """
    import onnx_ir as ir

    proto = ir.to_proto(model)
    have = {o.name for o in proto.graph.output}
    for name in expose:
        if name not in have:
            proto.graph.output.add().name = name
    return open_bytes(proto.SerializeToString(), threads=threads, optimise=optimise)


def open_bytes(
    model: bytes, *, outputs: Sequence[str] | None = None, threads: int | None = None, optimise: bool = True
) -> Callable[[Feeds], dict[str, Array]]:
    """`open_graph` for a serialised graph.

    Args:
        model: a protobuf message.
        outputs: names of the results to return; None returns all.
        threads: see `open_graph`.
        optimise: see `open_graph`.

    Raises:
        EngineError: the graph does not load.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    leave_out_rewrites(options)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if products_saturate(onnxruntime):  # a float graph has none, but quantised ones are opened here too
        options.add_session_config_entry(EXACT_PRODUCTS, "1")
    try:
        session: Any = isolated(
            lambda: onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        )
    except Exception as err:  # ONNX Runtime's own types share no base class
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load the graph: {err}",
            hint="upgrade onnxruntime, or please report the model",
        ) from err
    names = [o.name for o in session.get_outputs()] if outputs is None else list(outputs)
    wanted = {i.name for i in session.get_inputs()}

    def run(feeds: Feeds) -> dict[str, Array]:
        values = session.run(names, {k: v for k, v in feeds.items() if k in wanted})
        return dict(zip(names, values, strict=True))

    return run
