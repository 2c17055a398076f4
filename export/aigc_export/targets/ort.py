"""ONNX Runtime: the engine's file is the graph itself; building proves that it loads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from aigc_calibration.onnx_file import EXTERNAL_THRESHOLD, SharedWeights, save_graph
from aigc_export.graphs.passes.decoder.cached_attention import reads_rows_apart
from aigc_export.graphs.passes.decoder.row_products import has_row_products
from aigc_export.targets.base import BuiltEngine
from aigc_export.targets.ort_versions import oldest_version
from aigc_runtime.backends.ort.providers import OrtBuild
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import MAIN_ENGINE

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ENGINE_KIND", "build_ort", "open_ort"]

ENGINE_KIND = "onnxruntime"


def build_ort(
    model: ir.Model,
    interface: Interface,
    folder: Path,
    *,
    name: str = MAIN_ENGINE,
    provider: Literal["cpu", "cuda"] = "cpu",
    external_threshold: int = EXTERNAL_THRESHOLD,
    shared: SharedWeights | None = None,
) -> BuiltEngine:
    """Write the graph and load it once.

    Args:
        model: the graph.
        interface: that it must have.
        folder: where the files go.
        name: of the engine.
        provider: of ONNX Runtime, that it is for; it is loaded on the CPU all the same.
        external_threshold: see `save_graph`, as for the next one.
        shared: a file of weights that other engines read too.

    Raises:
        EngineError: ONNX Runtime does not load it, or its interface is another.
    """
    started = time.perf_counter()
    file = f"{name}.onnx"
    paths = save_graph(model, folder / file, threshold=external_threshold, shared=shared)
    built = BuiltEngine(
        kind=ENGINE_KIND,
        file=file,
        files={path.name: path for path in paths},
        seconds=time.perf_counter() - started,
        interface=interface,
        build=OrtBuild(
            provider=provider,
            min_version=oldest_version(model),
            rows_apart=reads_rows_apart(model),
            byte_products=has_row_products(model),
        ),
    )
    open_ort(built, threads=1).close()
    return built


def open_ort(engine: BuiltEngine, *, threads: int | None, device: str = "cpu") -> OrtSession:
    """Open a built graph where its files lie."""
    path = engine.files[engine.file]
    return OrtSession(
        path.read_bytes(),
        engine.interface,
        folder=str(path.parent.absolute()),
        threads=threads,
        device=device,
        rows_apart=engine.build.rows_apart,
    )
