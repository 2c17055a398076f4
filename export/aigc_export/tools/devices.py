"""Find devices by name, to check bundles for a device that is not at hand."""

from __future__ import annotations

from pathlib import Path

from aigc_runtime.device.capability import capability_number, read_capability
from aigc_runtime.device.probe import Device, Gpu
from aigc_runtime.errors import AigcError, ConfigError, InputError, UnknownNameError
from aigc_runtime.io.jsonable import from_json
from aigc_runtime.io.strict_json import loads_strict
from aigc_runtime.io.user_file import read_file

__all__ = ["KNOWN", "find_device"]

MAX_FILE_BYTES = 1 << 20
KNOWN: dict[str, tuple[str, str, int, str]] = {
    "rtx-3060": ("GeForce RTX 3060", "8.6", 12, "linux-x86_64"),
    "rtx-4090": ("GeForce RTX 4090", "8.9", 24, "linux-x86_64"),
    "rtx-5090": ("GeForce RTX 5090", "12.0", 32, "linux-x86_64"),
    "t4": ("T4", "7.5", 16, "linux-x86_64"),
    "a100": ("A100", "8.0", 40, "linux-x86_64"),
    "h100": ("H100", "9.0", 80, "linux-x86_64"),
    "orin-nano": ("Jetson Orin Nano", "8.7", 8, "linux-aarch64"),
    "agx-orin": ("Jetson AGX Orin", "8.7", 64, "linux-aarch64"),
    "thor": ("Jetson Thor", "11.0", 128, "linux-aarch64"),
}
"""name -> (model, compute capability, memory in GB, platform), from the makers' data sheets."""


def find_device(text: str) -> Device:
    """Find a device by its name, its compute capability, or the file that `doctor --json` wrote on it.

    Args:
        text: `orin-nano`, `8.6` (also `86`, `sm_86`), or a path ending with `.json`.

    Raises:
        UnknownNameError: no such name; lists them.
        ConfigError: no capability, or the file describes no device.
        InputError: the file cannot be read, or is not what doctor wrote.
    """
    if text.endswith(".json"):
        return _read(Path(text))
    capability = read_capability(text)
    if capability[:1].isdigit():
        capability_number(capability)
        return _named(f"a device of compute capability {capability}", capability, None, None)
    if text not in KNOWN:
        raise UnknownNameError("device", text, KNOWN)
    name, capability, memory_gb, platform = KNOWN[text]
    return _named(name, capability, memory_gb * 10**9, platform)


def _named(name: str, capability: str, memory_bytes: int | None, platform: str | None) -> Device:
    # Nothing is known of its packages and driver, and of a bare capability no memory or platform either.
    gpu = Gpu(name=name, compute_capability=capability, memory_bytes=memory_bytes)
    return Device(runtime="", platform=platform, python="", driver_cuda=None, gpus=(gpu,), packages=None)


def _read(path: Path) -> Device:
    try:
        value = loads_strict(read_file(path, limit=MAX_FILE_BYTES), what=path.name, written_by_hand=True)
    except AigcError as err:
        raise InputError(
            err.message, hint=f"{err.hint}; `aigc-run doctor --json` on the device writes such a file"
        ) from err
    if isinstance(value, dict) and isinstance(value.get("device"), dict):
        value = value["device"]  # `aigc-run doctor BUNDLE` and `aigc-export doctor` tell more than the device
    if isinstance(value, dict):
        value.pop("schema", None)
    return from_json(Device, value, where=path.name, error=ConfigError)
