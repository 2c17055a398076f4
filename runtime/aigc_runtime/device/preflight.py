"""Whether a device runs a bundle, from the manifest alone: nothing is opened, nothing is tried.

An engine for another device is not always refused by its library with a reason that helps; some crash. What the
manifest says is compared here first. What a device does not tell, one that is known by name above all, is neither
passed nor failed.
"""

from __future__ import annotations

from dataclasses import replace

from aigc_runtime.bundle.engine_build import EngineBuild, capability_number
from aigc_runtime.bundle.engine_info import MAIN_ENGINE, EngineInfo
from aigc_runtime.bundle.manifest import Manifest
from aigc_runtime.device.findings import Finding, Preflight, not_known
from aigc_runtime.device.packages import check_packages
from aigc_runtime.device.probe import Device, Gpu
from aigc_runtime.device.rebuild import LEAST_CAPABILITY, rebuild_line
from aigc_runtime.device.requirements import CUDA_BINDINGS
from aigc_runtime.errors import EngineError

__all__ = ["Finding", "Preflight", "check_device", "check_engine", "require_device"]


_COMPUTED_IN_FLOAT = frozenset({"fp32", "fp16", "bf16", "fp8"})
"""Precisions that ONNX Runtime's CPU kernels compute in float, whatever the numbers are stored in."""


def check_device(manifest: Manifest, device: Device) -> Preflight:
    """Compare a manifest with a device: each of its engines.

    Args:
        manifest: of the bundle.
        device: probed, or described by name.

    Returns:
        Findings on packages, for a quantized graph on the processor that runs it, for a provider of ONNX Runtime on
        its device, and for a compiled engine on platform, capability, model, arithmetic, driver and memory. Of several
        GPUs the first that runs it is judged, or the first of all.
    """
    judged = [check_engine(manifest, name, device) for name in manifest.engines]
    named = next((found for found in judged if found.gpu is not None), judged[0])
    return replace(named, findings=tuple(dict.fromkeys(f for found in judged for f in found.findings)))


def check_engine(manifest: Manifest, name: str, device: Device) -> Preflight:
    """The same for one engine."""
    engine = manifest.engines[name]
    build, provider = engine.build, engine.provider
    packages = check_packages(engine, device.packages)
    if build is None and provider is None:
        return Preflight(gpu=None, findings=(*packages, *_processor(manifest, engine, device)))
    if not device.gpus:
        missing = Finding(
            subject="GPU", passed=False, found="none that a driver knows", fix="install the driver, or export for a CPU"
        )
        return Preflight(gpu=None, findings=(*packages, missing))
    if build is None:
        first = device.gpus[0]
        found = Finding(
            subject="GPU", passed=True, found=f"{first.name}, compute capability {first.compute_capability}"
        )
        return Preflight(gpu=first.name, ordinal=0, findings=(*packages, found))
    machine = (_platform(build, device), *_driver(build, device))
    named = device.packages is None
    judged = [
        Preflight(gpu=gpu.name, ordinal=i, findings=(*packages, *machine, *_gpu(manifest, build, gpu, named=named)))
        for i, gpu in enumerate(device.gpus)
    ]
    return next((found for found in judged if found.runs), judged[0])


def require_device(manifest: Manifest, device: Device, engine: str = MAIN_ENGINE) -> Preflight:
    """Refuse an engine that cannot run here, before anything of it is opened.

    Returns:
        What was found; nothing of it speaks against running.

    Raises:
        EngineError: says what is in the way and what to rebuild.
    """
    found = check_engine(manifest, engine, device)
    wrong = [finding for finding in found.findings if finding.passed is False]
    if wrong:
        # For an engine of another device no package helps.
        lasting = [finding for finding in wrong if finding.subject not in ("engine", CUDA_BINDINGS)]
        raise EngineError(
            f"the engine does not run here: {'; '.join(f'{f.subject}: {f.found}' for f in wrong)}",
            hint="\n".join(dict.fromkeys(f.fix for f in lasting or wrong if f.fix)),
        )
    return found


def _processor(manifest: Manifest, engine: EngineInfo, device: Device) -> tuple[Finding, ...]:
    """Kernels for few bits differ from processor to processor; those for floats differ in their last bits alone."""
    if engine.kind != "onnxruntime" or manifest.precision in _COMPUTED_IN_FLOAT:
        return ()
    proven = f"proven on {' and '.join(engine.proven_on) or 'no processor'}"
    if device.instruction_set is None:
        return (not_known("instruction set", proven),)
    if device.instruction_set in engine.proven_on:
        return (Finding(subject="instruction set", passed=True, found=f"{device.instruction_set}, {proven}"),)
    told = f"{device.instruction_set}; {proven}, not on this one"
    return (
        Finding(
            subject="instruction set", passed=None, found=told, fix="`aigc-run verify` on the device proves it there"
        ),
    )


def _platform(build: EngineBuild, device: Device) -> Finding:
    if device.platform is None:
        return not_known("platform", f"built for {build.platform}")
    fits = device.platform == build.platform
    return Finding(
        subject="platform",
        passed=fits,
        found=f"{device.platform}, built for {build.platform}",
        fix="" if fits else f"export on {device.platform}",
    )


def _driver(build: EngineBuild, device: Device) -> tuple[Finding, ...]:
    if build.cuda_major is None:
        return ()
    if device.driver_cuda is None:
        return (not_known("driver", f"needs one that runs CUDA {build.cuda_major}"),)
    enough = int(device.driver_cuda.split(".")[0]) >= build.cuda_major
    found = Finding(
        subject="driver",
        passed=enough,
        found=f"runs CUDA up to {device.driver_cuda}, the engine needs {build.cuda_major}",
        fix="" if enough else f"install a driver for CUDA {build.cuda_major}",
    )
    return (found,)


def _gpu(manifest: Manifest, build: EngineBuild, gpu: Gpu, *, named: bool) -> tuple[Finding, ...]:
    capability = _capability(manifest, build, gpu)
    model = _model(build, gpu, named=named) if capability.passed else ()
    return (capability, *model, *_arithmetic(build, gpu), *_memory(build, gpu))


def _capability(manifest: Manifest, build: EngineBuild, gpu: Gpu) -> Finding:
    fits = gpu.compute_capability in build.compute_capabilities
    if build.hardware_compatibility == "ampere_plus":
        fits = capability_number(gpu.compute_capability) >= capability_number("8.0")
    return Finding(
        subject="compute capability",
        passed=fits,
        found=f"{gpu.compute_capability}, built for {', '.join(build.compute_capabilities)}",
        fix="" if fits else rebuild_line(manifest, gpu.compute_capability),
    )


def _model(build: EngineBuild, gpu: Gpu, *, named: bool) -> tuple[Finding, ...]:
    """TensorRT documents its engines as bound to the model that they were built on, unless built for others as well.

    A data sheet's name is not the driver's, so that a device that is `named` cannot be told from another.
    """
    if build.flavor != "tensorrt" or build.hardware_compatibility != "none":
        return ()
    if build.gpu is None:
        told = "runs on the model that it was built on alone, which its manifest does not name"
        return (Finding(subject="GPU model", passed=None, found=told),)
    if named:
        return (not_known("GPU model", f"runs on {build.gpu} alone, on which it was built"),)
    fits = _bare(gpu.name) == _bare(build.gpu)
    fix = "export on this device, or again with --hardware-compatibility same_compute_capability"
    told = f"{gpu.name}, built on {build.gpu} for that model alone"
    return (Finding(subject="GPU model", passed=fits, found=told, fix="" if fits else fix),)


def _bare(name: str) -> str:
    """A GPU's name without the maker's, which newer drivers put in front."""
    return name.strip().casefold().removeprefix("nvidia ")


def _arithmetic(build: EngineBuild, gpu: Gpu) -> tuple[Finding, ...]:
    findings = []
    for kind, least in LEAST_CAPABILITY.items():
        if kind in build.work:
            has = capability_number(gpu.compute_capability) >= capability_number(least)
            told = f"{'has' if has else 'has no'} {kind}, which {build.work[kind]:.0%} of the work is in"
            fix = "" if has else "export in another --precision"
            findings.append(Finding(subject="arithmetic", passed=has, found=told, fix=fix))
    return tuple(findings)


def _memory(build: EngineBuild, gpu: Gpu) -> tuple[Finding, ...]:
    """The manifest holds one sum, of weights and activations: streamed weights cannot be told apart from it."""
    if build.device_memory_bytes is None:
        return ()
    needed = f"needs {build.device_memory_bytes / 1e9:.2f} GB"
    if gpu.memory_bytes is None:
        return (not_known("memory", needed),)
    told = f"{gpu.memory_bytes / 1e9:.1f} GB, the engine {needed}"
    if gpu.memory_bytes >= build.device_memory_bytes:
        return (Finding(subject="memory", passed=True, found=told),)
    if build.weight_streaming:
        told += " with all weights; they are streamed and need not fit, what the rest needs is not known"
        return (Finding(subject="memory", passed=None, found=told),)
    fix = "export with a --profile of smaller shapes, or with --weight-streaming"
    return (Finding(subject="memory", passed=False, found=told, fix=fix),)
