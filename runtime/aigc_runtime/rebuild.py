"""The command that exports a model again, for a device that its engine was not built for."""

from __future__ import annotations

from aigc_runtime.engine_build import capability_number
from aigc_runtime.manifest import Manifest

__all__ = ["LEAST_CAPABILITY", "RTX_CAPABILITIES", "rebuild_line"]

RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Devices that TensorRT-RTX 1.7 builds for."""

LEAST_CAPABILITY = {"bf16": "8.0", "fp8": "8.9"}
"""Type of arithmetic -> the first device that has it."""


def rebuild_line(manifest: Manifest, capability: str) -> str:
    """The command that exports the same model for another device, in the same precision where the device has it."""
    precision = _precision(manifest.precision, capability)
    changed = f", in {precision} because {capability} is not built in {manifest.precision}"
    why = "" if precision == manifest.precision else changed
    rest = f"--precision {precision} -o DIR"
    if capability in RTX_CAPABILITIES:
        command = f"aigc-export export {manifest.name} --target tensorrt-rtx --compute-capability {capability} {rest}"
        return f"export again{why}: {command}"
    command = f"aigc-export export {manifest.name} --target tensorrt {rest}"
    return f"TensorRT-RTX does not serve it; on the device{why}: {command}"


def _precision(asked: str, capability: str) -> str:
    """What a device is asked for in place of a precision that is not built for it: fp16, which all have."""
    if capability == "7.5":
        return "fp16"  # TensorRT-RTX has no other products of matrices there
    lacks = asked in LEAST_CAPABILITY and capability_number(capability) < capability_number(LEAST_CAPABILITY[asked])
    return "fp16" if lacks else asked
