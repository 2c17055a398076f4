"""TensorRT and TensorRT-RTX as back-ends: engines that were compiled for certain NVIDIA devices."""

from __future__ import annotations

from functools import partial

from aigc_runtime.backends.base import Backend, EngineFiles
from aigc_runtime.backends.trt.build_info import EngineBuild, Flavor
from aigc_runtime.backends.trt.preflight import check
from aigc_runtime.backends.trt.requirements import PACKAGES
from aigc_runtime.core.session import Session

__all__ = ["TENSORRT", "TENSORRT_RTX"]


def _open(kind: Flavor, files: EngineFiles, _threads: int | None) -> Session:
    from aigc_runtime.backends.trt.session import open_trt

    return open_trt(kind, files)


def _describe(build: EngineBuild) -> tuple[tuple[str, str], ...]:
    shares = ", ".join(f"{share:.1%} {kind}" for kind, share in build.work.items())
    return (
        ("built by", f"{build.flavor} {build.version} for {', '.join(build.compute_capabilities)}"),
        *(() if build.gpu is None else (("built on", build.gpu),)),
        ("work", f"{shares}, read from the {build.work_source}"),
        *(("profile", str(profile)) for profile in build.profiles),
    )


def _backend(kind: Flavor) -> Backend:
    return Backend(
        kind=kind,
        build=EngineBuild,
        packages=PACKAGES,
        open=partial(_open, kind),
        check=partial(check, kind),
        describe=_describe,
        on_cpu=lambda _build: False,
    )


TENSORRT = _backend("tensorrt")
TENSORRT_RTX = _backend("tensorrt-rtx")
