"""The graph of every family of language models, built for real by TensorRT-RTX on a machine without a GPU.

One profile for prompts, one for single tokens. What stands for the numbers is the very graph that is built, compared
with transformers in ONNX Runtime (`line/test_language_models.py`), and engines of the same builder that run elsewhere.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import onnx_ir as ir
import pytest
from tests.models.sources.transformers.small_models import SMALL

from aigc_calibration.calibrate import calibrate
from aigc_calibration.config import QuantConfig
from aigc_calibration.coverage import site_macs
from aigc_calibration.emit import emit
from aigc_calibration.onnx_file import save_graph
from aigc_calibration.planner import round_weights
from aigc_calibration.prepare import prepare
from aigc_calibration.quantize import plan_calibrated
from aigc_export.prepare.calibration_data import ExampleData
from aigc_export.prepare.prepare import pass_feeds
from aigc_export.recipes.hints import with_hints
from aigc_export.targets.profiles import derive_profiles, input_shapes
from aigc_export.targets.tensorrt.build import build_trt
from aigc_export.targets.tensorrt.library import Library
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_export.targets.tensorrt.target import TENSORRT_RTX

from ...language_models import exported

PRECISIONS = ("fp16", "int8")
CAPABILITIES = ("8.6", "8.9", "12.0")
REPRESENTATIVE = ("gemma3_text", "int8", "8.9")
"""Windows, two rotary bases, head norms, sandwich norms and a buffer cache in one graph."""
CASES = [
    pytest.param(family, precision, capability, marks=marks)
    for family in SMALL
    for precision in PRECISIONS
    for capability in CAPABILITIES
    for marks in [() if (family, precision, capability) == REPRESENTATIVE else pytest.mark.stress]
]


@cache
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


@pytest.mark.parametrize(("family", "precision", "capability"), CASES)
def test_a_family(rtx: Library, family: str, precision: str, capability: str, tmp_path: Path) -> None:
    program = exported(family).program
    macs = site_macs(prepare(exported(family).graph), pass_feeds(program.part, 0)[0])
    graph, asked = graph_of(family, precision)
    profiles = derive_profiles(program)
    assert [profile.name for profile in profiles] == ["prefill", "decode"]
    built = build_trt(
        rtx,
        save_graph(graph, tmp_path / "graph.onnx")[0],
        tmp_path / "model.engine",
        BuildSettings(compute_capabilities=(capability,), optimization_level=0),
        profiles=[input_shapes(program.part, profile) for profile in profiles],
        requested={node: asked.get(node, "fp32") for node in macs},
        macs=macs,
    )
    assert "unknown" not in built.proof.work
    assert built.proof.work[precision] > 0.5
