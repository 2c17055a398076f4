"""ONNX Runtime on a CPU, the embedded default: the graph that ships is the one that parity runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from aigc_calibration.coverage import executed_sites
from aigc_calibration.formats import UNSIGNED_FORMAT
from aigc_calibration.plan import QuantizationPlan
from aigc_export.graphs.passes import CLEAN_UP
from aigc_export.graphs.passes.decoder.fuse import fuse_decoder
from aigc_export.graphs.passes.decoder.row_products import multiply_rows
from aigc_export.graphs.passes.pixel_product import multiply_pixels
from aigc_export.graphs.passes.prelu import spell_out_prelu
from aigc_export.targets.base import BuildRequest, EngineUnderTest, Target
from aigc_export.targets.ort import build_ort, open_ort
from aigc_runtime.backends.base import EngineProof
from aigc_runtime.core.progress import Progress
from aigc_runtime.pipelines.text_tensors import PREFILL
from aigc_runtime.system.processor import instruction_set

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ORT_CPU"]


def _build(request: BuildRequest, folder: Path, _progress: Progress | None) -> EngineUnderTest:
    here = instruction_set()
    graph = fuse_decoder(request.graph)
    if request.part.name == request.program.engines.get(PREFILL):
        graph = multiply_rows(graph, request.part.interface.step_dim)
    engine = build_ort(graph, request.part.interface, folder, name=request.part.name, shared=request.shared)
    engine = replace(engine, proof=EngineProof(proven_on=() if here is None else (here,)))
    session = open_ort(engine, threads=request.threads)
    return EngineUnderTest(engine=engine, candidate=session, unbounded=session, graph=graph)


def _executed(graph: ir.Model, plan: QuantizationPlan) -> set[str]:
    """The quantized sites that run in few bits, read from what is built of a graph."""
    return executed_sites(fuse_decoder(graph), plan)


ORT_CPU = Target(
    name="ort-cpu",
    summary="ONNX Runtime on a CPU",
    precisions=("fp32", "fp16", "bf16", "int8", "fp8", "int8-weight", "int4", "auto"),
    passes=(*CLEAN_UP, ("multiply-pixels", multiply_pixels), ("spell-out-prelu", spell_out_prelu)),
    format=UNSIGNED_FORMAT,
    build=_build,
    executed=_executed,
    prefers_buffers=True,
    multiplies_rows=True,
)
