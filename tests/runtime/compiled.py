"""A compiled engine in a toy's manifest, and a device that runs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from aigc_runtime.backends.base import EngineProof
from aigc_runtime.backends.trt.build_info import EngineBuild
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.manifest import Manifest
from aigc_runtime.bundle.origin import Origin
from aigc_runtime.core.shape_profiles import ShapeProfile
from aigc_runtime.device.findings import Finding, Preflight
from aigc_runtime.device.probe import Device, Gpu

BUILD = EngineBuild(
    flavor="tensorrt-rtx",
    version="1.7.1.116",
    cuda_major=13,
    platform="linux-x86_64",
    compute_capabilities=("8.6", "12.0"),
    hardware_compatibility="none",
    version_compatible=False,
    weight_streaming=False,
    device_memory_bytes=2 * 10**9,
    profiles=(
        ShapeProfile(name="prefill", dims={"batch": (1, 1, 8), "sequence": (1, 64, 256), "past": (0, 0, 256)}),
        ShapeProfile(name="decode", dims={"batch": (1, 1, 8), "sequence": (1, 1, 1), "past": (0, 128, 256)}),
    ),
    work={"int8": 0.9, "fp32": 0.1},
    work_source="engine",
)
CLASSIC = replace(
    BUILD, flavor="tensorrt", version="10.3.0", gpu="NVIDIA A100-SXM4-40GB", compute_capabilities=("8.0",)
)
GPU = Gpu(name="some GPU", compute_capability="8.6", memory_bytes=12 * 10**9)
DEVICE = Device(
    runtime="0.1.0",
    platform="linux-x86_64",
    python="3.10.12",
    driver_cuda="13.0",
    gpus=(GPU,),
    packages={"tensorrt_rtx": "1.7.1.116", "cuda-bindings": "13.0.1"},
)
NAMED = Device(runtime="", platform="linux-x86_64", python="", driver_cuda=None, gpus=(GPU,), packages=None)
"""A device of which no more is known than a data sheet says."""


ORIGIN = Origin(
    shipped=True,
    checkpoint=None,
    model_sha256="0" * 64,
    config_sha256="1" * 64,
    calibration_data=None,
    calibration=None,
    eval_data=None,
    eval_sha256="",
    options=(),
)


def manifest_of(toy_bundles: Path, build: EngineBuild = BUILD, precision: str = "int8") -> Manifest:
    """A toy's manifest around a compiled engine."""
    manifest = Bundle.open(toy_bundles / "toy_unet").manifest
    info = replace(manifest.engine, kind=build.flavor, build=build, proof=EngineProof(parity="graph"))
    return replace(manifest, engines={"model": info}, precision=precision, origin=ORIGIN)


def gpu(device: Device = DEVICE, **changes: Any) -> Device:
    """A device with another GPU."""
    return replace(device, gpus=(replace(GPU, **changes),))


def refused(found: Preflight) -> list[Finding]:
    """What speaks against running."""
    return [finding for finding in found.findings if finding.passed is False]


def unknown(found: Preflight) -> dict[str, str]:
    """What could not be judged: subject -> text."""
    return {finding.subject: finding.found for finding in found.findings if finding.passed is None}
