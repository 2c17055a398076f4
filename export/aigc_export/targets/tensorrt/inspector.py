"""The layers of an engine that a device has opened, from the JSON of TensorRT's `IEngineInspector`.

Classic TensorRT builds where it runs, so that the engine can be opened and asked, in place of reading the builder's
log.
The fields are those that NVIDIA documents (Developer Guide, "Engine Inspector") for an engine of detailed verbosity:

    {"Layers": [{"Name": ..., "LayerType": "CaskConvolution",
                 "Inputs": [{"Name": ..., "Dimensions": [...], "Format/Datatype": "... Int8 format."}],
                 "Outputs": [...], "Weights": {"Type": "Int8", "Count": ...}, "Bias": {"Type": "Float", ...},
                 "TacticName": ..., "TacticValue": ..., "Metadata": "[ONNX Layer: ...]"}, ...],
     "Bindings": [...]}

1. A layer by its name alone (an engine of less verbosity) proves nothing, and is left out.
2. `N/A due to dynamic shapes`, or a type that is not known here: that operand is left out.
3. A `Myelin` layer is a whole subgraph, whose inputs do not say what is multiplied inside: it has no operands.

What is left out makes work `unknown`, never proven.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aigc_export.targets.tensorrt.layers import EngineLayer, nodes_in
from aigc_export.targets.tensorrt.library import Library
from aigc_runtime.errors import EngineError

__all__ = ["inspect_engine", "parse_inspector"]

_TYPES: Mapping[str, str] = {
    "fp32": "fp32",
    "float": "fp32",
    "fp16": "fp16",
    "half": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "int8": "int8",
    "fp8": "fp8",
    "int4": "int4",
}
"""Word of a format, in lower case -> type as in a manifest."""

_KINDS = (("deconvolution", "deconv"), ("convolution", "correlation"), ("matrixmultiply", "gemm"), ("gemm", "gemm"))
"""Part of a layer's type, in lower case -> kind of `EngineLayer`; the first that fits counts."""

_SUBGRAPHS = frozenset({"myelin"})


def parse_inspector(text: str) -> tuple[EngineLayer, ...]:
    """Read the layers of an engine; layers without types are left out.

    Args:
        text: what `getEngineInformation` returned in JSON.

    Raises:
        EngineError: not the JSON of an inspector.
    """
    try:
        value = json.loads(text)
    except ValueError as err:
        raise EngineError(
            f"TensorRT's engine inspector returned no JSON: {err}", hint="please report the version of TensorRT"
        ) from err
    layers = value.get("Layers") if isinstance(value, dict) else None
    if not isinstance(layers, list):
        raise EngineError("TensorRT's engine inspector lists no layers", hint="please report the version of TensorRT")
    return tuple(_layer(entry) for entry in layers if isinstance(entry, dict))


def _layer(entry: Mapping[str, Any]) -> EngineLayer:
    name, raw = str(entry.get("Name", "")), str(entry.get("LayerType", ""))
    kind = next((kind for part, kind in _KINDS if part in raw.lower()), raw)
    listed = [*_entries(entry.get("Inputs")), *_entries(entry.get("Constants"))]
    formats = [str(t.get("Format/Datatype") or t.get("Datatype") or "") for t in listed]
    formats += [str(t.get("Type", "")) for t in _entries([entry.get("Weights"), entry.get("Bias")])]
    operands = () if raw.lower() in _SUBGRAPHS else tuple(t for t in map(_type, formats) if t is not None)
    # Without metadata the parser's names are all there is: one layer has those of all that it fuses.
    nodes = nodes_in(str(entry.get("Metadata", ""))) or tuple(part.strip() for part in name.split(" + "))
    return EngineLayer(name=name, kind=kind, operands=operands, nodes=nodes)


def _entries(value: object) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _type(text: str) -> str | None:
    words = re.findall(r"[a-z]+[0-9]*", text.lower())
    return next((_TYPES[word] for word in words if word in _TYPES), None)


def inspect_engine(library: Library, logger: Any, engine: Path, shapes: Mapping[str, Iterable[int]]) -> str:
    """Open an engine that was built here, and ask it for its layers.

    Args:
        library: that built it.
        logger: the process's only one.
        engine: the file.
        shapes: of every input with a dynamic shape, within the first profile; formats are not reported without them.

    Returns:
        JSON, for `parse_inspector`.

    Raises:
        EngineError: the library cannot open what it has built.
    """
    module = library.module
    opened = module.Runtime(logger).deserialize_cuda_engine(engine.read_bytes())
    if opened is None:
        raise EngineError(
            f"{module.__name__} {library.version} cannot open the engine that it has built",
            hint="please report the versions of TensorRT and of the driver",
        )
    context = opened.create_execution_context()
    for name, shape in shapes.items():
        context.set_input_shape(name, tuple(shape))
    inspector = opened.create_engine_inspector()
    inspector.execution_context = context
    return str(inspector.get_engine_information(module.LayerInformationFormat.JSON))
