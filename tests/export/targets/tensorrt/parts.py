"""Parts of programs, built by TensorRT-RTX in one engine for several devices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx_ir as ir

from aigc_calibration.calibrate import calibrate
from aigc_calibration.calibrated_plan import plan_calibrated
from aigc_calibration.config import QuantConfig
from aigc_calibration.coverage import site_macs
from aigc_calibration.emit import emit
from aigc_calibration.onnx_file import save_graph
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import HALF_PRECISIONS, SitePrecision
from aigc_calibration.planner import round_weights
from aigc_calibration.prepare import prepare
from aigc_export.graphs.capture import capture
from aigc_export.graphs.passes import CLEAN_UP, run_passes
from aigc_export.prepare.calibration_data import ExampleData
from aigc_export.prepare.prepare import pass_feeds
from aigc_export.recipes.hints import with_hints
from aigc_export.targets.profiles import derive_profiles, input_shapes
from aigc_export.targets.tensorrt.build import BuiltTrt, build_trt
from aigc_export.targets.tensorrt.library import Library
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_export.targets.tensorrt.target import TENSORRT_RTX
from aigc_models.program import Part, Program
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.compare import compare_arrays

DEVICES = ("8.6", "8.9", "12.0")
EIGHT_BIT_FLOATS = ("8.9", "12.0")


@dataclass(frozen=True)
class ReadyPart:
    """A part of a program, captured once for all precisions."""

    program: Program
    part: Part

    @cached_property
    def graph(self) -> ir.Model:
        captured = capture(self.part, opset=TENSORRT_RTX.opset, model_config=self.program.model_config)
        graph, _ = run_passes(captured.model, CLEAN_UP, feeds=pass_feeds(self.part, 0))
        return graph

    def quantized(self, precision: str) -> tuple[ir.Model, dict[str, str]]:
        """The graph that is built, and the type that is asked of each of its products."""
        kind: SitePrecision = precision  # type: ignore[assignment]
        config = with_hints(QuantConfig(), self.part.hints, precision)
        ready = prepare(self.graph)
        statistics = calibrate(ready, ExampleData(part=self.part, seed=0), config, precision=kind, threads=1)
        graph, plan = plan_calibrated(ready, statistics, config, precision=kind, form=TENSORRT_RTX.format)
        weights = {} if kind in HALF_PRECISIONS else round_weights(graph, plan)
        requested = {op.node: "fp32" if op.precision == "float" else op.precision for op in plan.ops}
        return emit(graph, plan, weights, TENSORRT_RTX.format), requested

    def graph_db(self, precision: str) -> float:
        """How near the graph that is built is to PyTorch: the worst output, at two sets of shapes."""
        run = open_onnx(self.quantized(precision)[0], threads=1, optimize=False)
        session = TorchSession(self.part)
        return min(
            compare_arrays(expected, run(feeds)[name]).sqnr_db
            for feeds in pass_feeds(self.part, 0)
            for name, expected in session.run(feeds).items()
        )

    def build(self, rtx: Library, precision: str, folder: Path, *, devices: tuple[str, ...] = DEVICES) -> BuiltTrt:
        """One engine for all devices."""
        graph, requested = self.quantized(precision)
        macs = site_macs(prepare(self.graph), pass_feeds(self.part, 0)[0])
        return build_trt(
            rtx,
            save_graph(graph, folder / "graph.onnx")[0],
            folder / "model.engine",
            BuildSettings(compute_capabilities=devices, optimization_level=0),
            profiles=[input_shapes(self.part, p) for p in derive_profiles(self.program, part=self.part)],
            requested={node: requested.get(node, "fp32") for node in macs},
            macs=macs,
        )


def parts_of(program: Program) -> dict[str, ReadyPart]:
    return {name: ReadyPart(program, part) for name, part in program.parts.items()}
