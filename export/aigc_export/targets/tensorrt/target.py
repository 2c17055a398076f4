"""TensorRT and TensorRT-RTX as targets: an engine is compiled for named devices, and parity is that of its graph."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from aigc_calibration.coverage import site_macs
from aigc_calibration.formats import SIGNED_FORMAT
from aigc_calibration.onnx_file import save_graph
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.prepare import prepare
from aigc_export.graphs.passes import CLEAN_UP
from aigc_export.targets.base import BuildRequest, BuiltEngine, EngineUnderTest, Readiness, Target
from aigc_export.targets.graph_session import bf16_products_in_float, bounded
from aigc_export.targets.tensorrt.build import BuiltTrt, build_trt
from aigc_export.targets.tensorrt.checks import MIN_CAPABILITY
from aigc_export.targets.tensorrt.config import check_settings
from aigc_export.targets.tensorrt.library import INSTALL, Library, load_library
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_runtime.backends.base import EngineProof
from aigc_runtime.backends.trt.build_info import EngineBuild, Flavor
from aigc_runtime.bundle.origin import can_be_recorded
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.progress import Progress
from aigc_runtime.core.shape_profiles import ShapeProfile
from aigc_runtime.device.capability import capability_number
from aigc_runtime.device.probe import Device, Gpu, host_platform, probe_device
from aigc_runtime.errors import ConfigError, EngineMissingError

if TYPE_CHECKING:
    from aigc_models.program import Part, Program

__all__ = ["TENSORRT", "TENSORRT_RTX"]

OPSET = 20
"""The last that TensorRT 10.3 reads."""
_TYPE_OF = {"float": "fp32"}
_NEEDED = {"bf16": MIN_CAPABILITY["BFLOAT16"], "fp8": MIN_CAPABILITY["FLOAT8E4M3FN"]}


def _check(flavor: Flavor, settings: BuildSettings, precision: str, opset: int | None) -> None:
    library = load_library(flavor)
    library.check_capabilities(settings.compute_capabilities)
    check_settings(library, settings)
    if opset is not None and opset > OPSET:
        raise ConfigError(
            f"opset {opset} is not supported by target {flavor!r}", hint=f"TensorRT 10.3 reads up to {OPSET}"
        )
    least = _NEEDED.get(precision)
    for text in settings.compute_capabilities:
        if least is not None and capability_number(text) < capability_number(least):
            raise ConfigError(
                f"devices of compute capability {text} do not multiply {precision} numbers",
                hint=f"build for {least} and later, or choose another --precision",
            )


def _bounds(program: Program, part: Part, settings: BuildSettings) -> tuple[ShapeProfile, ...]:
    from aigc_export.targets.profiles import derive_profiles

    return derive_profiles(program, settings.profiles, part=part)


def _build(flavor: Flavor, request: BuildRequest, folder: Path, progress: Progress | None) -> EngineUnderTest:
    from aigc_export.targets.profiles import input_shapes, narrowed

    part, graph, settings, library = request.part, request.graph, request.settings, load_library(flavor)
    file = f"{part.name}.engine"
    profiles = _bounds(request.program, part, settings)
    source = save_graph(graph, folder / f"{part.name}.source.onnx")[0]
    macs = site_macs(prepare(request.float_graph), request.feeds)
    low = {} if request.plan is None else {op.node: _TYPE_OF.get(op.precision, op.precision) for op in request.plan.ops}
    built = build_trt(
        library,
        source,
        folder / file,
        settings,
        profiles=[input_shapes(part, profile) for profile in profiles],
        requested={node: low.get(node, "fp32") for node in macs},
        macs=macs,
        progress=progress,
    )
    # Parity runs the very file that was built; only bf16, for which ONNX Runtime has no kernels, is spelled out first.
    runnable = bf16_products_in_float(graph) if request.precision == "bf16" else graph
    compared = save_graph(runnable, folder / f"{part.name}.compared.onnx")[0] if runnable is not graph else source
    function = open_onnx(compared, threads=request.threads, optimize=False)
    engine = BuiltEngine(
        kind=flavor,
        file=file,
        files={file: built.path},
        seconds=built.seconds,
        build=_facts(library, built, settings, profiles),
        proof=EngineProof(parity="graph"),
        interface=narrowed(part.interface, profiles),
    )
    return EngineUnderTest(
        engine=engine,
        candidate=ArraySession(bounded(function, engine.interface, profiles), engine.interface),
        unbounded=ArraySession(function, part.interface),
        graph=runnable,
        summary=f"; {built.proof}; built, not run here: parity is that of its graph",
        provenance=_provenance(library, source),
    )


def _facts(
    library: Library, built: BuiltTrt, settings: BuildSettings, profiles: tuple[ShapeProfile, ...]
) -> EngineBuild:
    own = None if settings.compute_capabilities else _own_gpu()
    capabilities = settings.compute_capabilities if own is None else (own.compute_capability,)
    return EngineBuild(
        flavor=library.flavor,
        version=library.version,
        cuda_major=library.cuda_major,
        platform=host_platform(),
        compute_capabilities=capabilities,
        hardware_compatibility=settings.hardware_compatibility,
        version_compatible=settings.version_compatible,
        weight_streaming=settings.weight_streaming,
        device_memory_bytes=built.device_memory_bytes,
        profiles=profiles,
        work={kind: round(share, 6) for kind, share in built.proof.work.items()},
        work_source=built.proof.source,
        gpu=None if own is None else own.name,
    )


def _own_gpu() -> Gpu:
    """Find the GPU that TensorRT has just built for: the first one."""
    gpus = probe_device().gpus
    if not gpus:
        raise ConfigError("the GPU that the engine was built for was not found", hint="run `aigc-run doctor`")
    return gpus[0]


def _provenance(library: Library, source: Path) -> dict[str, str]:
    digest = hashlib.sha256()
    for path in sorted(source.parent.glob(f"{source.name}*")):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return {
        "built_graph_sha256": digest.hexdigest(),
        library.module.__name__: library.version,
        "parity_of": f"the graph of the {library.flavor} engine, run by ONNX Runtime on a CPU; the engine was not run",
    }


def _options(settings: BuildSettings) -> tuple[str, ...]:
    words: list[str] = []
    for profile in settings.profiles:
        words += ["--profile", _profile(profile)]
    if settings.workspace_bytes is not None:
        words += ["--workspace-mib", str(settings.workspace_bytes >> 20)]
    if settings.optimization_level is not None:
        words += ["--optimization-level", str(settings.optimization_level)]
    if settings.timing_cache is not None and can_be_recorded(str(settings.timing_cache)):
        words += ["--timing-cache", str(settings.timing_cache)]
    if settings.hardware_compatibility != "none":
        words += ["--hardware-compatibility", settings.hardware_compatibility]
    flags: Mapping[str, bool] = {
        "--version-compatible": settings.version_compatible,
        "--weight-streaming": settings.weight_streaming,
        "--tf32": settings.tf32,
    }
    return (*words, *(flag for flag, given in flags.items() if given))


def _profile(profile: ShapeProfile) -> str:
    """Write a profile as `parse_profile` reads it."""
    return f"{profile.name}/" + ",".join(f"{dim}={':'.join(map(str, sizes))}" for dim, sizes in profile.dims.items())


def _doctor(flavor: Flavor, device: Device) -> Readiness:
    try:
        library = load_library(flavor)
    except EngineMissingError as err:
        return Readiness(builds=False, summary=f"{err.message}: {INSTALL[flavor]}")
    if library.ahead_of_time:
        return Readiness(
            builds=True, summary=f"{library.version}, for compute capability {', '.join(library.capabilities)}"
        )
    builds = bool(device.gpus)
    needs = "for the GPU here" if builds else "needs a GPU to build, and none is here"
    return Readiness(builds=builds, summary=f"{library.version}, {needs}")


_NO_KERNEL = "TensorRT computes ConvTranspose in float when its operands are of 8 bits, and has no bf16 kernel for it"
_WEIGHTS_ALONE = "weights alone in few bits were not tried on TensorRT: use int8 or fp8, or --target ort-cpu"


def _target(flavor: Flavor, summary: str) -> Target:
    return Target(
        name=flavor,
        summary=summary,
        precisions=("fp32", "fp16", "bf16", "int8", "fp8"),
        opset=OPSET,
        # What a model spells out (masks, norms, grouped heads) it takes whole as it stands: see docs/tensorrt.md.
        passes=CLEAN_UP,
        # Read from compiled layers (TensorRT-RTX 1.7, devices 8.6 to 12.0): with Q/DQ it builds, and multiplies fp32.
        format=replace(
            SIGNED_FORMAT,
            float_ops=MappingProxyType({("ConvTranspose", name): _NO_KERNEL for name in ("int8", "fp8", "bf16")}),
        ),
        settings=BuildSettings,
        check=partial(_check, flavor),
        bounds=_bounds,
        build=partial(_build, flavor),
        executed=lambda _graph, _plan: None,  # the builder proves it
        options=_options,
        doctor=partial(_doctor, flavor),
        fixes_capacity=True,
        refused={
            "auto": "a search runs and times its candidates, and such an engine does not run here: use "
            "--target ort-cpu",
            "int8-weight": _WEIGHTS_ALONE,
            "int4": _WEIGHTS_ALONE,
        },
    )


TENSORRT = _target("tensorrt", "TensorRT 10.3 or later, built on the device")
TENSORRT_RTX = _target("tensorrt-rtx", "TensorRT-RTX, built here for named devices")
