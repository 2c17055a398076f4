"""The host's half of the toy: a target that writes the graph as it is, and proves every site by its operands."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from toy_engine import KIND, ToyBuild, interpret

from aigc_calibration.bodies import all_nodes
from aigc_calibration.formats import SIGNED_FORMAT
from aigc_calibration.onnx_file import to_proto
from aigc_calibration.plan import QuantizationPlan
from aigc_export.graphs.passes import CLEAN_UP
from aigc_export.targets.base import BuildRequest, BuiltEngine, EngineUnderTest, Readiness, Target
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.progress import Progress


@dataclass(frozen=True, kw_only=True)
class ToySettings:
    """The settings of the toy."""

    greeting: str = "a toy"


def _build(request: BuildRequest, folder: Path, _progress: Progress | None) -> EngineUnderTest:
    started = time.perf_counter()
    path = folder / "model.toy"
    path.write_bytes(to_proto(request.graph).SerializeToString())
    interface = request.part.interface
    session = ArraySession(interpret(path.read_bytes()), interface)
    operators = tuple(sorted({node.op_type for node in all_nodes(request.graph)}))
    engine = BuiltEngine(
        kind=KIND,
        file=path.name,
        files={path.name: path},
        seconds=time.perf_counter() - started,
        interface=interface,
        build=ToyBuild(operators=operators, greeting=request.settings.greeting),
    )
    return EngineUnderTest(engine=engine, candidate=session, unbounded=session, graph=request.graph)


def _executed(graph: ir.Model, plan: QuantizationPlan) -> set[str]:
    """The sites whose first two operands are restored from few bits."""
    quantized = {op.node for op in plan.quantized()}

    def restored(node: ir.Node) -> bool:
        producers = [None if value is None else value.producer() for value in node.inputs[:2]]
        return all(p is not None and p.op_type == "DequantizeLinear" for p in producers)

    return {str(node.name) for node in graph.graph if node.name in quantized and restored(node)}


TARGET = Target(
    name="toy",
    summary="numpy, operator by operator",
    precisions=("fp32", "int8", "auto"),
    passes=CLEAN_UP,
    format=SIGNED_FORMAT,
    settings=ToySettings,
    build=_build,
    executed=_executed,
    doctor=lambda _device: Readiness(builds=True, summary="numpy is all it needs"),
)
