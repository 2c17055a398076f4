"""Every shipped model in every precision, built for real by TensorRT-RTX on a machine without a GPU.

What stands for an engine's numbers is the very graph that it is built from, compared with PyTorch in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import onnx_ir as ir
import pytest

from aigc_calibration.calibrate import Calibration, calibrate
from aigc_calibration.calibrated_plan import plan_calibrated
from aigc_calibration.coverage import site_macs
from aigc_calibration.emit import emit
from aigc_calibration.onnx_file import save_graph
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import HALF_PRECISIONS, SitePrecision
from aigc_calibration.planner import round_weights
from aigc_calibration.prepare import prepare
from aigc_export.graphs.passes import CLEAN_UP, run_passes
from aigc_export.parity.reference import Case, make_cases
from aigc_export.prepare.prepare import PreparedModel, Reporter, pass_feeds, prepare_graph
from aigc_export.recipes.recipe import export_recipe
from aigc_export.targets.graph_session import bf16_products_in_float, bounded
from aigc_export.targets.profiles import derive_profiles, input_shapes
from aigc_export.targets.tensorrt.build import BuiltTrt, build_trt
from aigc_export.targets.tensorrt.library import Library
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_export.targets.tensorrt.target import TENSORRT_RTX
from aigc_export.workloads import get_workload
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.proof.verify import TensorCheck, check_tensors

from ...conftest import SPECS, tiny_of

MODELS = ("lm", "unet", "gan")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
MIN_LOW = {"lm": 0.75, "unet": 0.9, "gan": 0.85}
"""Share of the work in 8 bits: attention's products, first and last convolutions stay float."""


@cache
def prepared_model(name: str) -> PreparedModel:
    recipe = export_recipe(name, target="tensorrt-rtx", precision="int8", calibration_samples=8)
    return prepare_graph(recipe, Reporter(None))


@cache
def calibrated(name: str, precision: SitePrecision) -> Calibration:
    """One calibration for each of: halves, 8 bits."""
    ready = prepared_model(name)
    assert ready.quantization is not None
    assert ready.data is not None
    return calibrate(prepare(ready.graph), ready.data, ready.quantization, precision=precision, threads=2)


@cache
def macs_of(name: str) -> dict[str, int]:
    ready = prepared_model(name)
    return site_macs(prepare(ready.graph), pass_feeds(ready.program.part, 0)[0])


@cache
def graph_of(name: str, precision: str) -> tuple[ir.Model, dict[str, str]]:
    """The graph that is built, and the type that is asked of each of its products."""
    ready = prepared_model(name)
    if precision == "fp32":
        return ready.graph, {}
    kind: SitePrecision = precision  # type: ignore[assignment]
    assert ready.quantization is not None
    calibration = calibrated(name, "fp16" if kind in HALF_PRECISIONS else "int8")
    float_graph, plan = plan_calibrated(
        prepare(ready.graph), calibration, ready.quantization, precision=kind, form=TENSORRT_RTX.format
    )
    weights = {} if kind in HALF_PRECISIONS else round_weights(float_graph, plan)
    requested = {op.node: "fp32" if op.precision == "float" else op.precision for op in plan.ops}
    return emit(float_graph, plan, weights, TENSORRT_RTX.format), requested


def build_model(rtx: Library, name: str, precision: str, capability: str, folder: Path) -> BuiltTrt:
    program, macs = prepared_model(name).program, macs_of(name)
    graph, requested = graph_of(name, precision)
    return build_trt(
        rtx,
        save_graph(graph, folder / "graph.onnx")[0],
        folder / "model.engine",
        BuildSettings(compute_capabilities=(capability,), optimization_level=0),
        profiles=[input_shapes(program.part, p) for p in derive_profiles(program)],
        requested={node: requested.get(node, "fp32") for node in macs},
        macs=macs,
    )


# Parity of the graphs, once for all devices


@cache
def reference_of(name: str) -> tuple[Case, ...]:
    program = prepared_model(name).program
    return make_cases(TorchSession(program.part), program, seed=0)[-1:]


def compared(name: str, precision: str, limits: str, folder: Path) -> tuple[TensorCheck, ...]:
    """The graph as it is built, against PyTorch under the limits of a precision."""
    program = prepared_model(name).program
    graph, _ = graph_of(name, precision)
    runnable = bf16_products_in_float(graph) if precision == "bf16" else graph
    function = open_onnx(save_graph(runnable, folder / "graph.onnx")[0], threads=2, optimize=False)
    steps = [(c.name, [("model", s.inputs, s.outputs) for s in c.steps]) for c in reference_of(name)]
    tolerance = get_workload(program.kind).tolerances[limits].tensor
    session = ArraySession(bounded(function, program.part.interface, derive_profiles(program)), program.part.interface)
    return check_tensors(OpenProgram({"model": session}), steps, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_the_graph_computes_what_pytorch_does(
    name: str, precision: str, tmp_path: Path, record_graph: Callable[[object], None]
) -> None:
    found = compared(name, precision, precision, tmp_path)
    assert found
    assert all(check.passed for check in found), [check.reasons for check in found]
    record_graph([name, precision, min(check.errors.sqnr_db for check in found)])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_that_comparison_can_fail(name: str, tmp_path: Path) -> None:
    # Half of the language model's tensors are near enough in 8 bits for fp16's limits; none is for fp32's.
    assert not all(check.passed for check in compared(name, "int8", "fp16", tmp_path))
    assert not any(check.passed for check in compared(name, "int8", "fp32", tmp_path))


# Engines


CASES = [(m, p, c) for m in MODELS for p in PRECISIONS if p != "fp8" for c in ("8.6", "12.0")]
CASES += [(m, "fp8", "8.9") for m in MODELS]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision", "capability"), CASES)
def test_a_shipped_model(
    rtx: Library,
    name: str,
    precision: str,
    capability: str,
    tmp_path: Path,
    record_engine: Callable[[object], None],
) -> None:
    built = build_model(rtx, name, precision, capability, tmp_path)
    shares = built.proof.work
    assert built.proof.source == "engine"
    assert "unknown" not in shares
    if precision in {"int8", "fp8"}:
        assert shares[precision] >= MIN_LOW[name]
        assert shares.keys() == {precision, "fp32"}
    else:
        assert shares == {precision: pytest.approx(1.0)}
    assert built.size_bytes > 100_000
    record_engine([name, precision, capability, built.size_bytes, built.seconds, str(built.proof)])


@pytest.mark.parametrize(
    "name", [name if name == "gan" else pytest.param(name, marks=pytest.mark.slow) for name in SPECS]
)
def test_every_kind_of_model_is_taken_whole(rtx: Library, name: str, tmp_path: Path) -> None:
    """Both cache forms, sizes that vary, cross-attention: parsed and built with the profiles derived for them."""
    tiny = tiny_of(name)
    model = ir.from_proto(ir.to_proto(tiny.captured.model))
    graph, _ = run_passes(model, CLEAN_UP, feeds=[tiny.feeds()])
    macs = site_macs(prepare(graph), tiny.feeds())
    built = build_trt(
        rtx,
        save_graph(graph, tmp_path / "graph.onnx")[0],
        tmp_path / "model.engine",
        BuildSettings(compute_capabilities=("8.6",), optimization_level=0),
        profiles=[input_shapes(tiny.program.part, p) for p in derive_profiles(tiny.program)],
        requested=dict.fromkeys(macs, "fp32"),
        macs=macs,
    )
    assert built.proof.work == {"fp32": pytest.approx(1.0)}
