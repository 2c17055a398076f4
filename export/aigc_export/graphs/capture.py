"""From a part of a program to an ONNX graph with named tensors and dimensions.

Every node keeps the path of the PyTorch module that it came from (`pkg.torch.onnx.name_scopes`), and every value the
name of the node of the exported program that computed it, which is what `bisect` goes by.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from aigc_calibration.bodies import all_graphs, all_nodes
from aigc_calibration.transposed import transpose_weights
from aigc_export.errors import CaptureError
from aigc_export.graphs.decompose import decomposed_in_place
from aigc_export.graphs.determinism import check_deterministic, check_repeats
from aigc_export.graphs.traced_once import computes_the_same, traced_once
from aigc_models.example_sizes import example_sizes, run_sizes
from aigc_models.program import Part, example_feeds
from aigc_models.sources.sizes import axis_names, dynamic_shapes
from aigc_models.sources.user_code import capture_advice
from aigc_runtime.core.sizes import is_dim_name
from aigc_runtime.core.tensors import DimSpec
from aigc_runtime.errors import CheckpointError
from aigc_runtime.system.interrupts import interrupted_by

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch.export import ExportedProgram
    from torch.onnx import ONNXProgram

__all__ = ["Captured", "capture", "check_finite"]

_LOG = logging.getLogger(__name__)

CONFIG_PROPERTY = "aigc.model_config"
_LOCAL_PROPERTIES = ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node", "namespace")
"""Node metadata that holds local file paths, or repeats what other metadata says."""
_ONE_TRACE = threading.Lock()
"""PyTorch traces by state of the whole process, some of which is changed here meanwhile: a second thread waits."""


@dataclass(frozen=True, kw_only=True)
class Captured:
    """A captured model.

    Attributes:
        model: the ONNX graph.
        program: the exported program that it was made from.
    """

    model: ir.Model
    program: ExportedProgram


def capture(part: Part, *, opset: int = 20, model_config: Mapping[str, Any] | None = None) -> Captured:
    """Export `part.module` by `torch.onnx.export(dynamo=True)`, its weights in the order in which products read them.

    Args:
        part: of a program.
        opset: ONNX operator set; 20 is the newest that all targets read.
        model_config: of the program, kept in the graph.

    Raises:
        CheckpointError: a weight is NaN or infinite; names it.
        CaptureError: the module cannot be exported, or draws random numbers; says why, and on which line.
    """
    import torch

    check_finite(part)
    feeds = example_feeds(part, example_sizes(part), seed=0)
    arguments = tuple(torch.from_numpy(array) for array in feeds.values())
    try:
        with _ONE_TRACE:
            exported = _export_repeated(part, arguments, opset) or _export(part, arguments, opset)
    except Exception as err:
        if interrupted_by(err):
            raise KeyboardInterrupt from err
        _check_random(part, arguments)
        message, hint = capture_advice(err, axis_names([t.shape for t in part.interface.graph_inputs]))
        raise CaptureError(f"{type(part.module).__name__} cannot be exported: {message}", hint=hint) from err
    if exported is None or exported.exported_program is None:
        raise CaptureError("PyTorch's exporter returned no program", hint="check the installed torch and onnxscript")
    check_deterministic(exported.exported_program)
    check_repeats(part, example_feeds(part, run_sizes(part)[0], seed=0))
    model = exported.model
    _name_dimensions(model, part)
    _label(model, model_config or {})
    return Captured(model=transpose_weights(model), program=exported.exported_program)


def _export(part: Part, arguments: tuple[Any, ...], opset: int) -> ONNXProgram | None:
    import torch

    with _quiet(), torch.no_grad(), decomposed_in_place():
        return torch.onnx.export(
            part.module,
            arguments,
            dynamo=True,
            opset_version=opset,
            input_names=[t.name for t in part.interface.graph_inputs],
            output_names=list(part.interface.graph_outputs),
            dynamic_shapes=_dynamic_shapes(part),
            external_data=False,
            optimize=False,
            verbose=False,
        )


def _export_repeated(part: Part, arguments: tuple[Any, ...], opset: int) -> ONNXProgram | None:
    """Trace one of many equal blocks; None for a module without such blocks, or where all have to be traced."""
    try:
        with traced_once(part.module) as repeats:
            exported = _export(part, arguments, opset) if repeats else None
        if exported is None or exported.exported_program is None:
            return None
        feeds = [example_feeds(part, sizes, seed=0) for sizes in run_sizes(part)]
        if all(computes_the_same(exported.exported_program, part, one) for one in feeds):
            return exported
        _LOG.debug("repeated blocks do not compute what %s does: all are traced", type(part.module).__name__)
    except Exception as err:  # whatever stops it, tracing all blocks says what is wrong with the model
        if interrupted_by(err):
            raise
        _LOG.debug("blocks of %s are not repeated: %s: %s", type(part.module).__name__, type(err).__name__, err)
    return None


def _check_random(part: Part, arguments: tuple[Any, ...]) -> None:
    """Check for a random operator without an ONNX counterpart: only the program knows its line of code.

    Raises:
        CaptureError: names it.
    """
    import torch

    try:
        with _ONE_TRACE, _quiet(), torch.no_grad():
            program = torch.export.export(part.module, arguments, dynamic_shapes=_dynamic_shapes(part), strict=False)
    except Exception:  # noqa: BLE001 - then the first failure says why
        return
    check_deterministic(program)


def check_finite(part: Part) -> None:
    """Raise CheckpointError if a weight or buffer of the module is NaN or infinite."""
    import torch

    for name, tensor in part.module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"tensor {name!r} of the model holds NaN or infinity", hint="use an earlier checkpoint"
            )


def _dynamic_shapes(part: Part) -> tuple[Any, ...] | dict[str, Any]:
    """Make torch.export's description of the dynamic dimensions, in the order of the module's positional arguments."""
    import inspect

    import torch

    named = {d.name: _torch_dim(d) for d in part.interface.dims}
    if part.examples:  # the ranges were found by tracing, and what else it found is no range: it is left to be found
        return (tuple(dynamic_shapes([t.shape for t in part.interface.graph_inputs], part.interface.dims_by_name)),)
    shapes = [
        # A sum has no name of its own in PyTorch, which finds out what it is.
        {axis: named.get(n, torch.export.Dim.AUTO) for axis, n in enumerate(t.shape) if isinstance(n, str)}
        for t in part.interface.graph_inputs
    ]
    # torch.export matches by the signature: a variadic parameter takes the rest as one tuple.
    parameters = list(inspect.signature(part.module.forward).parameters.values())
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_POSITIONAL:
        fixed = len(parameters) - 1
        return (*shapes[:fixed], tuple(shapes[fixed:]))
    return tuple(shapes)


def _torch_dim(dim: DimSpec) -> Any:
    import torch

    if dim.multiple_of > 1:
        top = None if dim.max is None else dim.max // dim.multiple_of
        base = torch.export.Dim(f"{dim.name}_units", min=max(1, dim.min // dim.multiple_of), max=top)
        return dim.multiple_of * base
    return torch.export.Dim(dim.name, min=dim.min, max=dim.max)


def _name_dimensions(model: ir.Model, part: Part) -> None:
    """Give the graph's symbolic dimensions the names of the part, in place of the exporter's s0, s1, ..."""
    import onnx_ir as ir

    names: dict[str, str] = {}
    for value, tensor in zip(model.graph.inputs, part.interface.graph_inputs, strict=True):
        assert value.shape is not None
        for axis, wanted in enumerate(tensor.shape):
            if isinstance(wanted, str) and is_dim_name(wanted):
                found = value.shape[axis]
                names[str(found.value if isinstance(found, ir.SymbolicDim) else found)] = wanted
        value.shape = ir.Shape(tensor.shape)
    outputs = {s.name: s.shape for s in part.interface.outputs}
    outputs.update({s.output: s.output_shape for s in part.interface.state})
    for value in model.graph.outputs:
        value.shape = ir.Shape(outputs[str(value.name)])
    # What the exporter inferred for inner values speaks of s0, s1, ...: it is inferred again, with the new names.
    given = {*model.graph.inputs, *model.graph.outputs}
    for graph in all_graphs(model):
        for value in (*graph.inputs, *(v for node in graph for v in node.outputs)):
            if value not in given and value.shape is not None and not value.shape.is_static():
                value.shape = ir.Shape([_renamed(d, names) for d in value.shape])


def _renamed(dim: Any, names: dict[str, str]) -> int | str | None:
    if isinstance(dim, int):
        return dim
    return names.get(str(dim.value))


def _label(model: ir.Model, model_config: Mapping[str, Any]) -> None:
    import json

    model.producer_name = "aigc-export"
    model.producer_version = metadata.version("aigc-export")
    model.metadata_props[CONFIG_PROPERTY] = json.dumps(dict(model_config), sort_keys=True)
    for node in all_nodes(model):
        for key in _LOCAL_PROPERTIES:
            node.metadata_props.pop(key, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress prints and advice; its failures are exceptions."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
