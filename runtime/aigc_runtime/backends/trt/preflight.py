"""Whether a device runs a compiled engine: its platform, driver, packages, and one of its GPUs."""

from __future__ import annotations

from aigc_runtime.backends.base import EngineFacts
from aigc_runtime.backends.trt.build_info import EngineBuild, Flavor
from aigc_runtime.backends.trt.packages import check_packages
from aigc_runtime.backends.trt.rebuild import LEAST_CAPABILITY, rebuild_line
from aigc_runtime.backends.trt.requirements import CUDA_BINDINGS
from aigc_runtime.device.capability import capability_number
from aigc_runtime.device.findings import Finding, Preflight, no_gpu, not_known
from aigc_runtime.device.probe import Device, Gpu
from aigc_runtime.errors import EngineError

__all__ = ["check", "require"]


def check(kind: Flavor, facts: EngineFacts, device: Device) -> Preflight:
    """Compare an engine with a device: packages, platform, capability, model, arithmetic, driver and memory.

    Of several GPUs the first that runs it is judged, or the first of all.
    """
    build: EngineBuild = facts.build
    if build.flavor != kind:
        told = f"the manifest says that its {kind} engine was built by {build.flavor}"
        fix = "the bundle is inconsistent: export it again"
        return Preflight(gpu=None, findings=(Finding(subject="engine", passed=False, found=told, fix=fix),))
    packages = check_packages(build, device.packages)
    if not device.gpus:
        return Preflight(gpu=None, findings=(*packages, no_gpu()))
    machine = (_platform(build, device), *_driver(build, device))
    named = device.packages is None
    judged = [
        Preflight(gpu=gpu.name, ordinal=i, findings=(*packages, *machine, *_gpu(facts, gpu, named=named)))
        for i, gpu in enumerate(device.gpus)
    ]
    return next((found for found in judged if found.runs), judged[0])


def require(found: Preflight) -> int:
    """Refuse an engine that cannot run here, before anything of it is opened.

    Returns:
        The place of the GPU that runs it, in the driver's order.

    Raises:
        EngineError: says what is in the way and what to rebuild.
    """
    wrong = [finding for finding in found.findings if finding.passed is False]
    if wrong or found.ordinal is None:
        # For an engine of another device no package helps.
        lasting = [finding for finding in wrong if finding.subject not in ("engine", CUDA_BINDINGS)]
        raise EngineError(
            f"the engine does not run here: {'; '.join(f'{f.subject}: {f.found}' for f in wrong)}",
            hint="\n".join(dict.fromkeys(f.fix for f in lasting or wrong if f.fix)),
        )
    return found.ordinal


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


def _gpu(facts: EngineFacts, gpu: Gpu, *, named: bool) -> tuple[Finding, ...]:
    build: EngineBuild = facts.build
    capability = _capability(facts, gpu)
    model = _model(build, gpu, named=named) if capability.passed else ()
    return (capability, *model, *_arithmetic(build, gpu), *_memory(build, gpu))


def _capability(facts: EngineFacts, gpu: Gpu) -> Finding:
    build: EngineBuild = facts.build
    fits = gpu.compute_capability in build.compute_capabilities
    if build.hardware_compatibility == "ampere_plus":
        fits = capability_number(gpu.compute_capability) >= capability_number("8.0")
    return Finding(
        subject="compute capability",
        passed=fits,
        found=f"{gpu.compute_capability}, built for {', '.join(build.compute_capabilities)}",
        fix="" if fits else rebuild_line(facts, gpu.compute_capability),
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
