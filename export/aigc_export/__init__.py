"""From a PyTorch module to a verified bundle.

Names are loaded when first used, so that importing this package costs next to nothing.

    import aigc_export

    program = aigc_export.program(module, {"image": image}, dims={"image": {2: "height", 3: "width"}})
    aigc_export.export(program, precision="int8", output="out/mine")
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aigc_export.api import calibrate, compare, export, load, part, program, search, sensitivity, verify
    from aigc_export.line.signing import load_signer, make_keys
    from aigc_models.program import Part, Program, QuantHints
    from aigc_runtime.core.tensors import DimSpec, StateSpec
    from aigc_runtime.errors import AigcError
    from aigc_runtime.pipelines.tensors import Stage, TensorsSettings

__all__ = [
    "AigcError",
    "DimSpec",
    "Part",
    "Program",
    "QuantHints",
    "Stage",
    "StateSpec",
    "TensorsSettings",
    "calibrate",
    "compare",
    "export",
    "load",
    "load_signer",
    "make_keys",
    "part",
    "program",
    "search",
    "sensitivity",
    "verify",
]

_API = "aigc_export.api"
_HOMES = {
    "AigcError": "aigc_runtime.errors",
    "DimSpec": "aigc_runtime.core.tensors",
    "Part": "aigc_models.program",
    "Program": "aigc_models.program",
    "QuantHints": "aigc_models.program",
    "Stage": "aigc_runtime.pipelines.tensors",
    "StateSpec": "aigc_runtime.core.tensors",
    "TensorsSettings": "aigc_runtime.pipelines.tensors",
    "calibrate": _API,
    "compare": _API,
    "export": _API,
    "load": _API,
    "load_signer": "aigc_export.line.signing",
    "make_keys": "aigc_export.line.signing",
    "part": _API,
    "program": _API,
    "search": _API,
    "sensitivity": _API,
    "verify": _API,
}

# Without it, Python would print warnings of an application that sets up no logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'aigc_export' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(__all__)
