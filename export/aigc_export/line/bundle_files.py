"""The files of a bundle that the host alone reads: its graph and its plan; a damaged one is reported by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aigc_calibration.errors import PlanError
from aigc_calibration.plan import QuantizationPlan, parse_plan
from aigc_export.line.exporter import PLAN_FILE
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.engine_info import MAIN_ENGINE
from aigc_runtime.errors import BundleError

if TYPE_CHECKING:
    import onnx

__all__ = ["read_graph", "read_plan"]

_HINT = "the bundle is damaged or was edited: export it again"


def read_plan(bundle: Bundle) -> QuantizationPlan | None:
    """Read the quantization plan; None in a bundle without one.

    Raises:
        BundleError: it is no plan.
    """
    if all(info.path != PLAN_FILE for info in bundle.manifest.files):
        return None
    try:
        return parse_plan(bundle.read(PLAN_FILE), what=PLAN_FILE)
    except PlanError as err:
        message = err.message if PLAN_FILE in err.message else f"{PLAN_FILE}: {err.message}"
        raise BundleError(message, hint=err.hint or _HINT) from err


def read_graph(bundle: Bundle, *, engine: str = MAIN_ENGINE, weights: bool = False) -> onnx.ModelProto:
    """Read the graph of an engine that is an ONNX file.

    Args:
        bundle: opened.
        engine: its name.
        weights: with those that lie in a file beside it.

    Raises:
        BundleError: it is no ONNX graph.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    name = bundle.manifest.engines[engine].file
    try:
        graph = onnx.load_model_from_string(bundle.read(name))
        if weights:
            onnx.load_external_data_for_model(graph, str(bundle.path))
    except (DecodeError, onnx.checker.ValidationError, ValueError) as err:
        raise BundleError(f"{name} is not an ONNX graph: {err}", hint=_HINT) from err
    return graph
