"""What this machine can run: its GPUs as the driver names them, and the inference engines that are installed.

The driver is asked through its own library, so nothing needs to be installed for the question itself.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from aigc_runtime import __version__

__all__ = ["Device", "Gpu", "host_platform", "probe_device"]

ENGINE_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt_lean", "tensorrt_rtx", "cuda-bindings")
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""CUdevice_attribute numbers, which the driver's interface fixes."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU: its name, its compute capability such as "8.6", its memory in bytes."""

    name: str
    compute_capability: str
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Device:
    """A machine as a bundle sees it.

    Attributes:
        runtime: version of this package on it.
        platform: operating system and processor, such as `linux-x86_64`.
        python: its version.
        driver_cuda: newest CUDA version that the driver runs, such as "13.0"; None without a driver.
        gpus: in the driver's order.
        packages: installed engine packages -> version; None for a device that is only known by name.
    """

    runtime: str
    platform: str
    python: str
    driver_cuda: str | None
    gpus: tuple[Gpu, ...]
    packages: dict[str, str] | None


def host_platform() -> str:
    """Operating system and processor of this machine, as manifests write it."""
    return f"{sys.platform}-{platform.machine().lower()}"


def probe_device() -> Device:
    """This machine."""
    driver, gpus = _ask_driver(_load_driver())
    return Device(
        runtime=__version__,
        platform=host_platform(),
        python=platform.python_version(),
        driver_cuda=driver,
        gpus=gpus,
        packages={name: found for name in ENGINE_PACKAGES if (found := _version(name)) is not None},
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _load_driver() -> Any:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _ask_driver(cuda: Any) -> tuple[str | None, tuple[Gpu, ...]]:
    """(CUDA version, GPUs) from the driver's library; nothing where it is absent or finds no device."""
    if cuda is None or cuda.cuInit(0) != 0:
        return None, ()
    number, count = ctypes.c_int(), ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(number)) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return None, ()
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    found = (_ask_gpu(cuda, ordinal) for ordinal in range(count.value))
    return version, tuple(gpu for gpu in found if gpu is not None)


def _ask_gpu(cuda: Any, ordinal: int) -> Gpu | None:
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(128), ctypes.c_size_t()
    failed = (
        cuda.cuDeviceGet(ctypes.byref(handle), ordinal)
        or cuda.cuDeviceGetName(name, len(name), handle)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, handle)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, handle)
        or cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    )
    if failed:
        return None
    return Gpu(
        name=name.value.decode("utf-8", errors="replace"),
        compute_capability=f"{major.value}.{minor.value}",
        memory_bytes=memory.value,
    )
