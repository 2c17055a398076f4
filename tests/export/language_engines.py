"""TensorRT-RTX engines of the families of language models, built for real on a machine without a GPU.

One profile for prompts, one for single tokens. What stands for their numbers is the very graph that is built, compared
with transformers in ONNX Runtime, and engines of the same builder that run elsewhere.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from aigc_calibration.calibrate import calibrate
from aigc_calibration.calibrated_plan import plan_calibrated
from aigc_calibration.config import QuantConfig
from aigc_calibration.coverage import site_macs
from aigc_calibration.emit import emit
from aigc_calibration.onnx_file import save_graph
from aigc_calibration.planner import round_weights
from aigc_calibration.prepare import prepare
from aigc_export.prepare.calibration_data import ExampleData
from aigc_export.prepare.prepare import pass_feeds
from aigc_export.recipes.hints import with_hints
from aigc_export.targets.profiles import derive_profiles, input_shapes
from aigc_export.targets.tensorrt.build import BuiltTrt, build_trt
from aigc_export.targets.tensorrt.library import Library
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_export.targets.tensorrt.target import TENSORRT_RTX

from .language_models import exported

CAPABILITIES = ("8.6", "8.9", "12.0")


def graph_of(family: str, precision: str) -> tuple[ir.Model, dict[str, str]]:
    """The graph that is built, and the type that is asked of each of its products."""
    found = exported(family)
    part, float_graph = found.program.part, prepare(found.graph)
    config = with_hints(QuantConfig(), part.hints, precision)
    calibration = calibrate(float_graph, ExampleData(part=part), config, precision=precision, threads=1)  # type: ignore[arg-type]
    planned, plan = plan_calibrated(float_graph, calibration, config, precision=precision, form=TENSORRT_RTX.format)  # type: ignore[arg-type]
    weights = {} if precision == "fp16" else round_weights(planned, plan)
    asked = {op.node: "fp32" if op.precision == "float" else op.precision for op in plan.ops}
    return emit(planned, plan, weights, TENSORRT_RTX.format), asked


def build_family(library: Library, family: str, precision: str, folder: Path) -> BuiltTrt:
    """One engine for all of `CAPABILITIES`."""
    program = exported(family).program
    macs = site_macs(prepare(exported(family).graph), pass_feeds(program.part, 0)[0])
    graph, asked = graph_of(family, precision)
    profiles = derive_profiles(program)
    assert [profile.name for profile in profiles] == ["prefill", "decode"]
    return build_trt(
        library,
        save_graph(graph, folder / "graph.onnx")[0],
        folder / "model.engine",
        BuildSettings(compute_capabilities=CAPABILITIES, optimization_level=0),
        profiles=[input_shapes(program.part, profile) for profile in profiles],
        requested={node: asked.get(node, "fp32") for node in macs},
        macs=macs,
    )
