"""ONNX Runtime as a back-end: an ONNX graph, run on the processor or by a provider on another device."""

from __future__ import annotations

from aigc_runtime.backends.base import Backend, EngineFiles
from aigc_runtime.backends.ort.exact_products import products_saturate
from aigc_runtime.backends.ort.open import import_onnxruntime
from aigc_runtime.backends.ort.preflight import check
from aigc_runtime.backends.ort.providers import PROVIDERS, OrtBuild
from aigc_runtime.core.session import Session

__all__ = ["ORT"]


def _open(files: EngineFiles, threads: int | None) -> Session:
    from aigc_runtime.backends.ort.session import OrtSession

    # The graph comes from the very bytes that were hashed. External data is read from the bundle's folder and nowhere
    # else; those files were hashed when the bundle was opened.
    return OrtSession(
        files.read(files.file),
        files.interface,
        folder=files.folder,
        threads=threads,
        device=files.facts.build.provider,
        rows_apart=files.facts.build.rows_apart,
    )


def _describe(build: OrtBuild) -> tuple[tuple[str, str], ...]:
    return () if build.provider == "cpu" else (("runs on", build.provider),)


def _computes_here(build: OrtBuild) -> bool:
    return not build.byte_products or not products_saturate(import_onnxruntime(PROVIDERS[build.provider]))


ORT = Backend(
    kind="onnxruntime",
    build=OrtBuild,
    packages={name: (name,) for provider in PROVIDERS.values() for name in (*provider.packages, *provider.libraries)},
    open=_open,
    check=check,
    describe=_describe,
    computes_here=_computes_here,
    saves_time=lambda build: bool(build.byte_products),
    on_cpu=lambda build: build.provider == "cpu",
    state_place=lambda build: str(build.provider),
)
