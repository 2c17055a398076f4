"""Whether a device runs a graph for ONNX Runtime: its packages, and its processor or its GPU."""

from __future__ import annotations

from collections.abc import Mapping

from aigc_runtime.backends.base import EngineFacts
from aigc_runtime.backends.ort.providers import PROVIDERS, OrtBuild, Provider
from aigc_runtime.device.findings import Finding, Preflight, no_gpu, not_known
from aigc_runtime.device.probe import Device

__all__ = ["check"]

_COMPUTED_IN_FLOAT = frozenset({"fp32", "fp16", "bf16", "fp8"})
"""Precisions that ONNX Runtime's CPU kernels compute in float, whatever the numbers are stored in."""


def check(facts: EngineFacts, device: Device) -> Preflight:
    """Compare a graph with a device: packages, for a quantized graph the processor, for a provider its device."""
    provider = PROVIDERS[facts.build.provider]
    packages = _packages(provider, facts.build, device.packages)
    if provider.name == "cpu":
        return Preflight(gpu=None, findings=(*packages, *_processor(facts, device)))
    if not device.gpus:
        return Preflight(gpu=None, findings=(*packages, no_gpu()))
    first = device.gpus[0]
    found = Finding(subject="GPU", passed=True, found=f"{first.name}, compute capability {first.compute_capability}")
    return Preflight(gpu=first.name, ordinal=0, findings=(*packages, found))


def _processor(facts: EngineFacts, device: Device) -> tuple[Finding, ...]:
    """Kernels for few bits differ from processor to processor; those for floats differ in their last bits alone."""
    if facts.precision in _COMPUTED_IN_FLOAT:
        return ()
    proven = f"proven on {' and '.join(facts.proof.proven_on) or 'no processor'}"
    if device.instruction_set is None:
        return (not_known("instruction set", proven),)
    if device.instruction_set in facts.proof.proven_on:
        return (Finding(subject="instruction set", passed=True, found=f"{device.instruction_set}, {proven}"),)
    told = f"{device.instruction_set}; {proven}, not on this one"
    return (
        Finding(
            subject="instruction set", passed=None, found=told, fix="`aigc-run verify` on the device proves it there"
        ),
    )


def _packages(provider: Provider, build: OrtBuild, packages: Mapping[str, str] | None) -> tuple[Finding, ...]:
    if packages is None:
        libraries = [not_known("libraries", f"needs {provider.needs}")] if provider.needs else []
        since = f" {build.min_version} or later" if build.min_version else ""
        return (not_known("engine", f"needs {' or '.join(provider.packages)}{since}"), *libraries)
    installed = [name for name in provider.packages if name in packages]
    if not installed:
        return (
            Finding(
                subject="engine", passed=False, found=f"{provider.packages[0]} is not installed", fix=provider.install
            ),
        )
    name, version = installed[0], packages[installed[0]]
    if not build.is_met_by(version):
        told = f"{name} {version}; the graph needs {build.min_version} or later"
        return (Finding(subject="engine", passed=False, found=told, fix=f"pip install '{name}>={build.min_version}'"),)
    findings = [Finding(subject="engine", passed=True, found=f"{name} {version}")]
    for name in provider.hides:
        if name in packages:
            told = f"{name} {packages[name]} is installed beside {installed[0]}, and may be the one that is imported"
            findings.append(Finding(subject="engine", passed=None, found=told, fix=_only(name, installed[0])))
    if provider.needs:
        findings.append(_libraries(provider, packages))
    return tuple(findings)


def _only(name: str, wanted: str) -> str:
    # Both write to one folder: removing one takes files of the other along.
    return f"pip uninstall -y {name} && pip install --force-reinstall --no-deps {wanted}"


def _libraries(provider: Provider, packages: Mapping[str, str]) -> Finding:
    held = [f"{name} {packages[name]}" for name in provider.libraries if name in packages]
    if held:
        return Finding(subject="libraries", passed=True, found=", ".join(held))
    told = f"needs {provider.needs}, of which no package is installed; the system may have them"
    return Finding(subject="libraries", passed=None, found=told, fix=f"{provider.needs_install} brings them")
