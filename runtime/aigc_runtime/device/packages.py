"""Whether the packages that an engine needs are installed on a device; the rules are those of the sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from aigc_runtime.bundle.engine_build import EngineBuild, Flavor
from aigc_runtime.bundle.engine_info import EngineInfo
from aigc_runtime.bundle.providers import PROVIDERS, Provider
from aigc_runtime.device.findings import Finding, not_known
from aigc_runtime.device.requirements import (
    CUDA_BINDINGS,
    CUDA_BINDINGS_INSTALL,
    install_line,
    modules_for,
    runs_version,
    version_needed,
)

__all__ = ["check_packages"]

Packages = Mapping[str, str] | None
"""Installed package -> version; None for a device that is known by name only."""


def check_packages(engine: EngineInfo, packages: Packages) -> tuple[Finding, ...]:
    """Findings on the packages that an engine needs.

    Args:
        engine: as the manifest describes it.
        packages: of the device.
    """
    kind, build, provider = engine.kind, engine.build, engine.provider
    if kind == "onnxruntime":
        return _onnxruntime(PROVIDERS["cpu" if provider is None else provider.name], packages)
    if kind not in get_args(Flavor):
        return (_refused(f"this runtime knows no engine {kind!r}", "upgrade aigc-runtime"),)
    if build is None or build.flavor != kind:
        told = f"the manifest does not say for which device its {kind} engine was built"
        return (_refused(told, "the bundle is inconsistent: export it again"),)
    return (_library(build, packages), _cuda_bindings(packages))


def _refused(found: str, fix: str) -> Finding:
    return Finding(subject="engine", passed=False, found=found, fix=fix)


def _library(build: EngineBuild, packages: Packages) -> Finding:
    """The first of its libraries that is installed in a version that runs it, as a session takes it."""
    names, needed = modules_for(build), version_needed(build)
    if packages is None:
        return not_known("engine", f"needs {' or '.join(names)} {needed}")
    installed = {name: packages[name] for name in names if name in packages}
    if not installed:
        return _refused(f"{' or '.join(names)} is not installed, the engine needs {needed}", install_line(build))
    for name, version in installed.items():
        if runs_version(build, version):
            return Finding(subject="engine", passed=True, found=f"{name} {version}, the engine needs {needed}")
    listed = ", ".join(f"{name} {version}" for name, version in installed.items())
    return _refused(f"{listed}, the engine needs {needed}", install_line(build))


def _cuda_bindings(packages: Packages) -> Finding:
    if packages is None:
        return not_known(CUDA_BINDINGS, f"needs {CUDA_BINDINGS}")
    version = packages.get(CUDA_BINDINGS)
    if version is None:
        return Finding(subject=CUDA_BINDINGS, passed=False, found="not installed", fix=CUDA_BINDINGS_INSTALL)
    return Finding(subject=CUDA_BINDINGS, passed=True, found=version)


def _onnxruntime(provider: Provider, packages: Packages) -> tuple[Finding, ...]:
    if packages is None:
        libraries = [not_known("libraries", f"needs {provider.needs}")] if provider.needs else []
        return (not_known("engine", f"needs {' or '.join(provider.packages)}"), *libraries)
    installed = [name for name in provider.packages if name in packages]
    if not installed:
        return (_refused(f"{provider.packages[0]} is not installed", provider.install),)
    findings = [Finding(subject="engine", passed=True, found=f"{installed[0]} {packages[installed[0]]}")]
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
