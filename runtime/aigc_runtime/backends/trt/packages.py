"""Whether the packages that an engine needs are installed on a device; the rules are those of the sessions."""

from __future__ import annotations

from collections.abc import Mapping

from aigc_runtime.backends.trt.build_info import EngineBuild
from aigc_runtime.backends.trt.requirements import (
    CUDA_BINDINGS,
    CUDA_BINDINGS_INSTALL,
    install_line,
    modules_for,
    runs_version,
    version_needed,
)
from aigc_runtime.device.findings import Finding, not_known

__all__ = ["check_packages"]

Packages = Mapping[str, str] | None
"""Installed package -> version; None for a device that is known by name only."""


def check_packages(build: EngineBuild, packages: Packages) -> tuple[Finding, ...]:
    """Findings on the packages that an engine needs.

    Args:
        build: of the engine.
        packages: of the device.
    """
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
