"""From a PyTorch module and its spec to an ONNX graph with named tensors and dimensions.

Every node keeps the path of the PyTorch module that it came from (`pkg.torch.onnx.name_scopes`), and every value the
name of the node of the exported program that computed it, which is what `bisect` goes by.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from aigc_calibration.bodies import all_graphs, all_nodes
from aigc_export.errors import CaptureError
from aigc_export.graphs.determinism import check_deterministic, check_repeats, user_line
from aigc_models.spec import ExportSpec, example_feeds
from aigc_runtime.core.tensors import DimSpec
from aigc_runtime.errors import CheckpointError
from aigc_runtime.pipelines.settings import TextSettings
from aigc_runtime.system.interrupts import interrupted_by

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch.export import ExportedProgram

__all__ = ["Captured", "capture", "check_finite", "example_sizes", "run_sizes"]

CONFIG_PROPERTY = "aigc.model_config"
_LOCAL_PROPERTIES = ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node", "namespace")
"""Node metadata that holds local file paths, or repeats what other metadata says."""


@dataclass(frozen=True, kw_only=True)
class Captured:
    """A captured model.

    Attributes:
        model: the ONNX graph.
        program: the exported program that it was made from.
    """

    model: ir.Model
    program: ExportedProgram


def capture(spec: ExportSpec, *, opset: int = 20) -> Captured:
    """Export `spec.module` by `torch.onnx.export(dynamo=True)`.

    Args:
        spec: the model.
        opset: ONNX operator set; 20 is the newest that all targets read.

    Raises:
        CheckpointError: a weight is NaN or infinite; names it.
        CaptureError: the module cannot be exported, or draws random numbers; says why, and on which line.
    """
    import torch

    check_finite(spec)
    feeds = example_feeds(spec, example_sizes(spec), seed=0)
    arguments = tuple(torch.from_numpy(array) for array in feeds.values())
    try:
        with _quiet(), torch.no_grad():
            exported = torch.onnx.export(
                spec.module,
                arguments,
                dynamo=True,
                opset_version=opset,
                input_names=[t.name for t in spec.interface.graph_inputs],
                output_names=list(spec.interface.graph_outputs),
                dynamic_shapes=_dynamic_shapes(spec),
                external_data=False,
                optimize=False,
                verbose=False,
            )
    except Exception as err:
        if interrupted_by(err):
            raise KeyboardInterrupt from err
        _check_random(spec, arguments)
        cause = err.__cause__ or err
        where = user_line(str(cause))
        raise CaptureError(
            f"PyTorch cannot export {type(spec.module).__name__}{where and ' ' + where}: {_first_lines(str(cause))}",
            hint="look for data-dependent Python control flow in its forward; AIGC_DEBUG=1 shows the whole report",
        ) from err
    if exported is None or exported.exported_program is None:
        raise CaptureError("PyTorch's exporter returned no program", hint="check the installed torch and onnxscript")
    check_deterministic(exported.exported_program)
    check_repeats(spec, example_feeds(spec, run_sizes(spec)[0], seed=0))
    model = exported.model
    _name_dimensions(model, spec)
    _label(model, spec)
    return Captured(model=model, program=exported.exported_program)


def _check_random(spec: ExportSpec, arguments: tuple[Any, ...]) -> None:
    """Check for a random operator without an ONNX counterpart: only the program knows its line of code.

    Raises:
        CaptureError: names it.
    """
    import torch

    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(spec.module, arguments, dynamic_shapes=_dynamic_shapes(spec), strict=False)
    except Exception:  # noqa: BLE001 - then the first failure says why
        return
    check_deterministic(program)


def example_sizes(spec: ExportSpec) -> dict[str, int]:
    """Choose example sizes of the named dimensions: distinct, and neither 0 nor 1, which the exporter would fix."""
    sizes: dict[str, int] = {}
    for i, dim in enumerate(spec.interface.dims):
        size = max(dim.min, (i + 2) * dim.multiple_of)
        sizes[dim.name] = size if dim.max is None else min(size, dim.max)
    return sizes


def run_sizes(spec: ExportSpec) -> tuple[dict[str, int], dict[str, int]]:
    """Choose two sets of sizes that the model takes: a rewrite that is right for one size only must fail.

    An example for capture alone may be longer than a small context, since nothing is computed on it.
    """
    example, units = example_sizes(spec), spec.interface.dims_by_name
    larger = {name: units[name].nearest(size + units[name].multiple_of) for name, size in example.items()}
    if not isinstance(spec.settings, TextSettings):
        return example, larger
    first, second = (_within_context(sizes, spec.settings.context_length) for sizes in (example, larger))
    if "past" in second and (first["past"], first["sequence"]) == (second["past"], second["sequence"]):
        second |= {"past": 0, "sequence": spec.settings.context_length}
    elif first["sequence"] == second["sequence"]:
        second |= {"sequence": max(1, first["sequence"] - 1)}
    return first, second


def _within_context(sizes: dict[str, int], context: int) -> dict[str, int]:
    """Cut sizes so that held and new tokens fit into a context together."""
    past = min(sizes.get("past", 0), context // 2)
    held = {"past": past} if "past" in sizes else {}
    return {**sizes, **held, "sequence": min(sizes["sequence"], context - past)}


def check_finite(spec: ExportSpec) -> None:
    """Raise CheckpointError if a weight or buffer of the module is NaN or infinite."""
    import torch

    for name, tensor in spec.module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"tensor {name!r} of the model holds NaN or infinity", hint="use an earlier checkpoint"
            )


def _dynamic_shapes(spec: ExportSpec) -> tuple[Any, ...] | dict[str, Any]:
    """Make torch.export's description of the dynamic dimensions, in the order of the module's positional arguments."""
    import inspect

    named = {d.name: _torch_dim(d) for d in spec.interface.dims}
    shapes = [
        {axis: named[n] for axis, n in enumerate(t.shape) if isinstance(n, str)} for t in spec.interface.graph_inputs
    ]
    # torch.export matches by the signature: a variadic parameter takes the rest as one tuple.
    parameters = list(inspect.signature(spec.module.forward).parameters.values())
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


def _name_dimensions(model: ir.Model, spec: ExportSpec) -> None:
    """Give the graph's symbolic dimensions the names of the spec, in place of the exporter's s0, s1, ..."""
    import onnx_ir as ir

    names: dict[str, str] = {}
    for value, tensor in zip(model.graph.inputs, spec.interface.graph_inputs, strict=True):
        assert value.shape is not None
        for axis, wanted in enumerate(tensor.shape):
            if isinstance(wanted, str):
                found = value.shape[axis]
                names[str(found.value if isinstance(found, ir.SymbolicDim) else found)] = wanted
        value.shape = ir.Shape(tensor.shape)
    outputs = {s.name: s.shape for s in spec.interface.outputs}
    outputs.update({s.output: _grown(s.shape, s.axis, s.kind, s.step_dim) for s in spec.interface.state})
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


def _grown(shape: tuple[int | str, ...], axis: int, kind: str, step: str) -> tuple[int | str, ...]:
    if kind == "buffer":
        return shape
    return tuple(f"{n}+{step}" if i == axis else n for i, n in enumerate(shape))


def _label(model: ir.Model, spec: ExportSpec) -> None:
    import json

    model.producer_name = "aigc-export"
    model.producer_version = metadata.version("aigc-export")
    model.metadata_props[CONFIG_PROPERTY] = json.dumps(spec.model_config, sort_keys=True)
    for node in all_nodes(model):
        for key in _LOCAL_PROPERTIES:
            node.metadata_props.pop(key, None)


def _first_lines(text: str, count: int = 3) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:count])[:500]


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
