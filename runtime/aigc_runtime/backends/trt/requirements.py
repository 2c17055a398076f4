"""Which packages run a compiled engine, and how to get them.

One source for both who ask: the session, which imports them, and the preflight, which reads what is installed.
"""

from __future__ import annotations

from aigc_runtime.backends.trt.build_info import EngineBuild

__all__ = [
    "CUDA_BINDINGS",
    "CUDA_BINDINGS_INSTALL",
    "PACKAGES",
    "install_line",
    "modules_for",
    "runs_version",
    "version_needed",
]

CUDA_BINDINGS = "cuda-bindings"
CUDA_BINDINGS_INSTALL = "pip install cuda-bindings"
_CUDA_MAJORS = (13, 12, 11)
"""TensorRT's packages may be installed by the name of their CUDA version, as in `tensorrt_cu12`."""
PACKAGES: dict[str, tuple[str, ...]] = {
    **{
        name: (name, *(f"{name}_cu{major}" for major in _CUDA_MAJORS))
        for name in ("tensorrt", "tensorrt_lean", "tensorrt_rtx")
    },
    CUDA_BINDINGS: (CUDA_BINDINGS,),
}
"""Package -> distributions that bring it."""
_EXTRAS = {"tensorrt": ("tensorrt", "tensorrt"), "tensorrt-rtx": ("rtx", "tensorrt-rtx")}
"""Flavor -> (extra of aigc-runtime, package)."""


def modules_for(build: EngineBuild) -> tuple[str, ...]:
    """The modules that can run an engine, in the order in which they are tried.

    The lean runtime runs version-compatible engines of classic TensorRT and nothing else.
    """
    if build.flavor == "tensorrt-rtx":
        return ("tensorrt_rtx",)
    return ("tensorrt", "tensorrt_lean") if build.version_compatible else ("tensorrt",)


def runs_version(build: EngineBuild, version: str) -> bool:
    """Whether a library of that version runs an engine: the very version that built it, or also a later one."""
    found, built = _numbers(version), _numbers(build.version)
    return found >= built if build.version_compatible else found == built


def version_needed(build: EngineBuild) -> str:
    """The versions that run an engine, in words."""
    return f"{build.version} or later" if build.version_compatible else f"exactly {build.version}"


def install_line(build: EngineBuild) -> str:
    """How to get the library that runs an engine."""
    extra, package = _EXTRAS[build.flavor]
    return f"pip install 'aigc-runtime[{extra}]' {package}=={build.version}"


def _numbers(version: str) -> tuple[int, ...]:
    """What of a version counts: a suffix such as `.post1` is the same library, packed again."""
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
