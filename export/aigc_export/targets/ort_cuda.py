"""ONNX Runtime on an NVIDIA GPU: parity runs its CUDA provider where there is one, elsewhere its graph on a CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from aigc_calibration.formats import SIGNED_FORMAT
from aigc_calibration.onnx_function import open_onnx
from aigc_export.graphs.passes import CLEAN_UP
from aigc_export.targets.base import BuildRequest, EngineUnderTest, Readiness, Target
from aigc_export.targets.ort import build_ort, open_ort
from aigc_runtime.backends.base import EngineProof
from aigc_runtime.backends.ort.open import import_onnxruntime, placement_line, unavailable
from aigc_runtime.backends.ort.providers import PROVIDERS
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.progress import Progress
from aigc_runtime.core.session import Session
from aigc_runtime.device.probe import Device

__all__ = ["ORT_CUDA"]

_8_BITS = "8-bit graphs are served by --target tensorrt-rtx or tensorrt, and by ort-cpu on a CPU"
# Kernels of the CUDA provider: docs/OperatorKernels.md of ONNX Runtime.
_REFUSED = {
    "bf16": "ONNX Runtime's CUDA provider has no bf16 convolution before opset 22, and would run it on the CPU: use "
    "fp16, or --target tensorrt-rtx",
    "int8": f"ONNX Runtime's CUDA provider restores 8-bit numbers and multiplies floats: {_8_BITS}",
    "fp8": "ONNX Runtime's CUDA provider restores 8-bit numbers and multiplies floats: fp8 graphs are served by "
    "--target tensorrt-rtx",
    "int8-weight": f"ONNX Runtime's CUDA provider restores the weights for every run, and gains nothing: {_8_BITS}",
    "int4": "ONNX Runtime's CUDA provider multiplies 4-bit weights by kernels that this line has not been proven on: "
    "use --target ort-cpu",
    "auto": "a search times its candidates where they run, and was never tried on a GPU: use --target ort-cpu",
}


def _build(request: BuildRequest, folder: Path, _progress: Progress | None) -> EngineUnderTest:
    """Compare with the provider where it runs; elsewhere with the same file on a CPU, no node rewritten."""
    engine = build_ort(
        request.graph,
        request.part.interface,
        folder,
        name=request.part.name,
        provider="cuda",
        shared=request.shared,
    )
    provider = PROVIDERS["cuda"]
    why = unavailable(import_onnxruntime(provider), provider)
    session: Session
    parity: Literal["engine", "graph"]
    provenance: dict[str, str] = {}
    if why is None:
        opened = open_ort(engine, threads=request.threads, device=provider.name)
        session, parity, summary = opened, "engine", f"; {placement_line(opened.placement, provider)}"
    else:
        session = ArraySession(
            open_onnx(engine.files[engine.file], threads=request.threads, optimize=False), engine.interface
        )
        parity, summary = "graph", f"; {provider.name} was not tried here: parity is that of its graph on a CPU"
        provenance["parity_of"] = (
            f"the graph, run by ONNX Runtime on a CPU; {provider.ort_name} was not tried: {why.message}"
        )
    built = replace(engine, proof=EngineProof(parity=parity))
    return EngineUnderTest(
        engine=built, candidate=session, unbounded=session, graph=request.graph, summary=summary, provenance=provenance
    )


def _doctor(_device: Device) -> Readiness:
    provider = PROVIDERS["cuda"]
    why = unavailable(import_onnxruntime(provider), provider)
    runs = "and runs here" if why is None else f"but does not run here, so parity is that of its graph: {why.message}"
    return Readiness(builds=True, summary=runs)


ORT_CUDA = Target(
    name="ort-cuda",
    summary="ONNX Runtime on an NVIDIA GPU",
    precisions=("fp32", "fp16"),
    passes=CLEAN_UP,
    # For 16 bits alone, of which it multiplies all: with 8 it would restore the numbers and multiply floats.
    format=replace(SIGNED_FORMAT, fp8_arithmetic=False),
    build=_build,
    executed=lambda _graph, _plan: None,  # its session proves which provider runs every node
    refused=_REFUSED,
    doctor=_doctor,
)
