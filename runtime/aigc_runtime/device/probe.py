"""What this machine can run: its GPUs as the driver names them, and the inference engines that are installed.

The driver is asked through its own library, so nothing needs to be installed for the question itself.
"""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aigc_runtime._version import __version__
from aigc_runtime.device.capability import capability_number
from aigc_runtime.errors import ConfigError
from aigc_runtime.system.processor import check_instruction_set, instruction_set

__all__ = ["Device", "Gpu", "host_platform", "probe_device"]

_DRIVER_CUDA = re.compile(r"[0-9]{1,3}\.[0-9]{1,2}")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+_!-]{0,63}")
_MAX_TEXT = 200
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""CUdevice_attribute numbers, which the driver's interface fixes."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU: its name, its compute capability such as "8.6", its memory in bytes, None where that is not known."""

    name: str
    compute_capability: str
    memory_bytes: int | None

    def __post_init__(self) -> None:
        _check_text("a GPU's name", self.name)
        capability_number(self.compute_capability)
        if self.memory_bytes is not None and self.memory_bytes < 0:
            raise ConfigError(f"memory_bytes is {self.memory_bytes}", hint="must be at least 0, or null if not known")


@dataclass(frozen=True, kw_only=True)
class Device:
    """A machine as a bundle sees it.

    Attributes:
        runtime: version of this package on it; empty for a device that is only known by name.
        platform: operating system and processor, such as `linux-x86_64`; None where it is not known.
        python: its version; empty for a device that is only known by name.
        driver_cuda: newest CUDA version that the driver runs, such as "13.0"; None without a driver, or if not known.
        gpus: in the driver's order.
        packages: installed engine packages -> version; None for a device that is only known by name.
        instruction_set: of the processor, a key of `processor.INSTRUCTION_SETS`; None where it is not known.
    """

    runtime: str
    platform: str | None
    python: str
    driver_cuda: str | None
    gpus: tuple[Gpu, ...]
    packages: dict[str, str] | None
    instruction_set: str | None = None

    def __post_init__(self) -> None:
        if self.platform is not None:
            _check_text("platform", self.platform)
        if self.instruction_set is not None:
            check_instruction_set(self.instruction_set)
        for what, version in (("runtime", self.runtime), ("python", self.python)):
            if version:
                _check_version(what, version)
        if self.driver_cuda is not None and not _DRIVER_CUDA.fullmatch(self.driver_cuda):
            raise ConfigError(f"driver_cuda is {self.driver_cuda!r}", hint="it reads like 13.0, or is null")
        for name, version in (self.packages or {}).items():
            _check_text("a package's name", name)
            _check_version(f"package {name!r}", version)


def _check_text(what: str, text: str) -> None:
    if not 0 < len(text) <= _MAX_TEXT or not text.isprintable():
        raise ConfigError(f"{what} is {text[:_MAX_TEXT]!r}", hint=f"1 to {_MAX_TEXT} printable characters")


def _check_version(what: str, text: str) -> None:
    if not _VERSION.fullmatch(text):
        raise ConfigError(f"{what} has version {text[:_MAX_TEXT]!r}", hint="it begins with a number, as in 1.20.0")


def host_platform() -> str:
    """Operating system and processor of this machine, as manifests write it."""
    return f"{sys.platform}-{platform.machine().lower()}"


def probe_device(packages: Mapping[str, Sequence[str]] | None = None) -> Device:
    """This machine.

    Args:
        packages: that it is asked for: package -> distributions that bring it, any of them; None asks for none.
    """
    driver, gpus = _ask_driver(_load_driver())
    return Device(
        runtime=__version__,
        platform=host_platform(),
        python=platform.python_version(),
        driver_cuda=driver,
        gpus=gpus,
        packages=None if packages is None else _installed(packages),
        instruction_set=instruction_set(),
    )


def _installed(packages: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {name: found for name, brought_by in packages.items() if (found := _version(brought_by)) is not None}


def _version(distributions: Sequence[str]) -> str | None:
    from importlib import metadata

    for each in distributions:
        try:
            return metadata.version(each)
        except metadata.PackageNotFoundError:
            continue
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
    gpus: list[Gpu] = []
    for ordinal in range(count.value):
        gpu = _ask_gpu(cuda, ordinal)
        if gpu is None:
            break  # a later one would be taken for this one: places count
        gpus.append(gpu)
    return version, tuple(gpus)


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
