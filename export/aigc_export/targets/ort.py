"""ONNX Runtime: the engine's file is the graph itself; building proves that it loads."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aigc_calibration.onnx_file import EXTERNAL_THRESHOLD, save_graph
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.bundle.engine_build import EngineBuild
from aigc_runtime.bundle.providers import EngineProvider
from aigc_runtime.core.interface import Interface

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["BuiltEngine", "build_ort"]

ENGINE_FILE = "model.onnx"


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine's files, not yet in a bundle.

    Attributes:
        kind: of the engine, as in the manifest.
        file: name of the file to open.
        files: name -> path of every file.
        seconds: what building took.
        build: how it was compiled, for an engine that fits certain devices only.
        interface: of the engine, which may take fewer sizes than the model.
        provider: that runs it, for a graph that is not for a CPU.
    """

    kind: str
    file: str
    files: dict[str, Path]
    seconds: float
    interface: Interface
    build: EngineBuild | None = None
    provider: EngineProvider | None = None

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.files.values())


def build_ort(
    model: ir.Model, interface: Interface, folder: Path, *, external_threshold: int = EXTERNAL_THRESHOLD
) -> BuiltEngine:
    """Write the graph and load it once.

    Args:
        model: the graph.
        interface: that it must have.
        folder: where the files go.
        external_threshold: see `save_graph`.

    Raises:
        EngineError: ONNX Runtime does not load it, or its interface is another.
    """
    started = time.perf_counter()
    paths = save_graph(model, folder / ENGINE_FILE, threshold=external_threshold)
    OrtSession(
        paths[0].read_bytes(),
        interface,
        folder=str(folder.absolute()),
        threads=1,
    ).close()
    return BuiltEngine(
        kind="onnxruntime",
        file=ENGINE_FILE,
        files={path.name: path for path in paths},
        seconds=time.perf_counter() - started,
        interface=interface,
    )
