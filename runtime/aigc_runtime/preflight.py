"""Whether a device runs a bundle, from the manifest alone: nothing is opened, nothing is tried.

An engine for another device is not always refused by its library with a reason that helps; some crash. What the
manifest says is compared here first.
"""

from __future__ import annotations

from dataclasses import dataclass

from aigc_runtime.device import Device, Gpu
from aigc_runtime.engine_build import EngineBuild, capability_number
from aigc_runtime.errors import EngineError
from aigc_runtime.manifest import Manifest
from aigc_runtime.providers import PROVIDERS

__all__ = ["Finding", "Preflight", "check_device", "require_device"]

_PACKAGES = {
    "onnxruntime": (PROVIDERS["cpu"].packages, PROVIDERS["cpu"].install),
    "tensorrt-rtx": (("tensorrt_rtx",), "pip install 'aigc-runtime[rtx]' tensorrt-rtx=={version}"),
    "tensorrt": (("tensorrt", "tensorrt_lean"), "install the TensorRT of your system, version {version}"),
}
"""Kind of engine -> (packages of which one is needed, how to get it)."""

_LEAST = {"bf16": "8.0", "fp8": "8.9"}
"""Type of arithmetic -> the first device that has it."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was compared: what the device has, whether that will do, and if not, what to do."""

    subject: str
    passed: bool
    found: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """All findings; `gpu` is the one of the device's GPUs that was judged, None where the engine needs none.

    `ordinal` is its place in the driver's order.
    """

    gpu: str | None
    findings: tuple[Finding, ...]
    ordinal: int | None = None

    @property
    def runs(self) -> bool:
        """Whether nothing speaks against running."""
        return all(finding.passed for finding in self.findings)


def check_device(manifest: Manifest, device: Device) -> Preflight:
    """Compare a manifest with a device.

    Args:
        manifest: of the bundle.
        device: probed, or described by name.

    Returns:
        Findings on packages, for a provider of ONNX Runtime on its device, and for a compiled engine on platform,
        capability, arithmetic, driver and memory. Of several GPUs the first that runs it is judged, or the first of
        all.
    """
    build, provider = manifest.engine.build, manifest.engine.provider
    package = _package(manifest, device)
    if build is None and provider is None:
        return Preflight(gpu=None, findings=package)
    if not device.gpus:
        missing = Finding(
            subject="GPU", passed=False, found="none that a driver knows", fix="install the driver, or export for a CPU"
        )
        return Preflight(gpu=None, findings=(*package, missing))
    if build is None:
        first = device.gpus[0]
        found = Finding(
            subject="GPU", passed=True, found=f"{first.name}, compute capability {first.compute_capability}"
        )
        return Preflight(gpu=first.name, ordinal=0, findings=(*package, found))
    judged = [
        Preflight(gpu=gpu.name, ordinal=i, findings=(*package, *_machine(build, device), *_gpu(manifest, build, gpu)))
        for i, gpu in enumerate(device.gpus)
    ]
    return next((found for found in judged if found.runs), judged[0])


def require_device(manifest: Manifest, device: Device) -> Preflight:
    """Refuse an engine that cannot run here, before anything of it is opened.

    Returns:
        What was found; nothing of it speaks against running.

    Raises:
        EngineError: says what is in the way and what to rebuild.
    """
    found = check_device(manifest, device)
    wrong = [finding for finding in found.findings if not finding.passed]
    if wrong:
        raise EngineError(
            f"the engine does not run here: {'; '.join(f'{f.subject}: {f.found}' for f in wrong)}",
            hint="\n".join(dict.fromkeys(f.fix for f in wrong if f.fix)),
        )
    return found


def _package(manifest: Manifest, device: Device) -> tuple[Finding, ...]:
    kind, build = manifest.engine.kind, manifest.engine.build
    if device.packages is None:
        return ()  # a device that is known by name only
    names, line = _PACKAGES.get(kind, ((kind,), "upgrade aigc-runtime"))
    if manifest.engine.provider is not None:
        provider = PROVIDERS[manifest.engine.provider.name]
        names, line = provider.packages, provider.install
    fix = line.format(version=build.version if build is not None else "")
    installed = {name: device.packages[name] for name in names if name in device.packages}
    if not installed:
        return (Finding(subject="engine", passed=False, found=f"{names[0]} is not installed", fix=fix),)
    name, version = next(iter(installed.items()))
    if build is None:
        return (Finding(subject="engine", passed=True, found=f"{name} {version}"),)
    if build.version_compatible:
        fits = _numbers(version) >= _numbers(build.version)
        needs = f"{build.version} or later"
    else:
        fits, needs = version == build.version, f"exactly {build.version}"
    found = f"{name} {version}, the engine needs {needs}"
    return (Finding(subject="engine", passed=fits, found=found, fix="" if fits else fix),)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _machine(build: EngineBuild, device: Device) -> tuple[Finding, ...]:
    fits = device.platform == build.platform
    findings = [
        Finding(
            subject="platform",
            passed=fits,
            found=f"{device.platform}, built for {build.platform}",
            fix="" if fits else f"export on {device.platform}",
        )
    ]
    if build.cuda_major is not None and device.driver_cuda is not None:
        enough = int(device.driver_cuda.split(".")[0]) >= build.cuda_major
        findings.append(
            Finding(
                subject="driver",
                passed=enough,
                found=f"runs CUDA up to {device.driver_cuda}, the engine needs {build.cuda_major}",
                fix="" if enough else f"install a driver for CUDA {build.cuda_major}",
            )
        )
    return tuple(findings)


def _gpu(manifest: Manifest, build: EngineBuild, gpu: Gpu) -> tuple[Finding, ...]:
    own = capability_number(gpu.compute_capability)
    built = ", ".join(build.compute_capabilities)
    fits = gpu.compute_capability in build.compute_capabilities
    if build.hardware_compatibility == "ampere_plus":
        fits = own >= capability_number("8.0")
    findings = [
        Finding(
            subject="compute capability",
            passed=fits,
            found=f"{gpu.compute_capability}, built for {built}",
            fix="" if fits else rebuild_line(manifest, gpu.compute_capability),
        )
    ]
    for kind, least in _LEAST.items():
        if kind in build.work:
            has = own >= capability_number(least)
            findings.append(
                Finding(
                    subject="arithmetic",
                    passed=has,
                    found=f"{'has' if has else 'has no'} {kind}, which {build.work[kind]:.0%} of the work is in",
                    fix="" if has else "export in another --precision",
                )
            )
    if build.device_memory_bytes is not None:
        enough = gpu.memory_bytes >= build.device_memory_bytes
        findings.append(
            Finding(
                subject="memory",
                passed=enough,
                found=f"{gpu.memory_bytes / 1e9:.1f} GB, the engine needs {build.device_memory_bytes / 1e9:.2f} GB",
                fix="" if enough else "export with a --profile of smaller shapes, or with --weight-streaming",
            )
        )
    return tuple(findings)


RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Devices that TensorRT-RTX 1.7 builds for."""


def rebuild_line(manifest: Manifest, capability: str) -> str:
    """The command that exports the same model for another device."""
    rest = f"--precision {manifest.precision} -o DIR"
    if capability in RTX_CAPABILITIES:
        command = f"aigc-export export {manifest.name} --target tensorrt-rtx --compute-capability {capability} {rest}"
        return f"export again: {command}"
    return f"TensorRT-RTX does not serve it; on the device: aigc-export export {manifest.name} --target tensorrt {rest}"
