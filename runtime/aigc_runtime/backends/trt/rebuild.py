"""The command that exports a model again, for a device that its engine was not built for."""

from __future__ import annotations

import shlex

from aigc_runtime.backends.base import EngineFacts
from aigc_runtime.device.capability import capability_number

__all__ = ["LEAST_CAPABILITY", "RTX_CAPABILITIES", "rebuild_line"]

RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Devices that TensorRT-RTX 1.7 builds for."""

LEAST_CAPABILITY = {"bf16": "8.0", "fp8": "8.9"}
"""Type of arithmetic -> the first device that has it."""

_OF_CLASSIC = ("--timing-cache", "--version-compatible", "--hardware-compatibility")
"""Options that TensorRT-RTX does not take."""


def rebuild_line(facts: EngineFacts, capability: str) -> str:
    """The command that exports the same model for another device too, in the same precision where the device has it.

    It names what the bundle was made from: weights, calibration data and options, and the devices it was built for.
    Where the manifest does not say what that was, there is no command: another model would come of it.
    """
    precision = _precision(facts.precision, capability)
    same = precision == facts.precision
    why = "" if same else f", in {precision} because {capability} is not built in {facts.precision}"
    target = "tensorrt-rtx" if capability in RTX_CAPABILITIES else "tensorrt"
    if facts.export_arguments is None:
        return f"export {facts.program!r} again{why} as it was exported, with --target {target} for {capability}"
    without = () if target == "tensorrt" else _OF_CLASSIC
    name, arguments = shlex.quote(facts.program), facts.export_arguments(same_precision=same, without=without)
    rest = " ".join(part for part in (f"--precision {shlex.quote(precision)}", arguments, "-o DIR") if part)
    if target == "tensorrt-rtx":
        others = facts.build.compute_capabilities if facts.build.flavor == target and same else ()
        devices = " ".join(f"--compute-capability {device}" for device in (*others, capability))
        command = f"aigc-export export {name} --target {target} {devices} {rest}"
        return f"export again{why}: {command}"
    command = f"aigc-export export {name} --target {target} {rest}"
    return f"TensorRT-RTX does not serve it; on the device{why}: {command}"


def _precision(asked: str, capability: str) -> str:
    """What a device is asked for in place of a precision that is not built for it: fp16, which all have."""
    if capability == "7.5":
        return "fp16"  # TensorRT-RTX has no other products of matrices there
    lacks = asked in LEAST_CAPABILITY and capability_number(capability) < capability_number(LEAST_CAPABILITY[asked])
    return "fp16" if lacks else asked
