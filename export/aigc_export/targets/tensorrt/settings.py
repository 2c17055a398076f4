"""The user's settings of an engine's compilation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aigc_runtime.core.shape_profiles import ShapeProfile
from aigc_runtime.device.capability import capability_number
from aigc_runtime.errors import ConfigError

__all__ = ["MAX_WORKSPACE", "BuildSettings"]

MAX_WORKSPACE = 1 << 40
"""Bytes: more than any device has, and still a number that every library takes."""


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Settings of a compiled engine; an engine that is not compiled takes none but the defaults.

    Attributes:
        compute_capabilities: devices to build for, such as ("8.6", "12.0"). TensorRT-RTX needs them; TensorRT builds
            for the device that it runs on and takes none.
        profiles: ranges of shapes in place of those derived from the model; empty derives them.
        workspace_bytes: scratch memory that one layer may use on the device; None leaves it to the builder.
        optimization_level: 0 (quick to build) to 5 (quick to run); None takes the builder's default.
        timing_cache: file of measured kernels, read and written; TensorRT only.
        version_compatible: let later versions run the engine; TensorRT only.
        hardware_compatibility: which devices beside the building one run it; TensorRT only.
        weight_streaming: let weights stay in host memory while the engine runs.
        tf32: let fp32 products round their operands to 10 bits of mantissa; off, so that fp32 means fp32.
    """

    compute_capabilities: tuple[str, ...] = ()
    profiles: tuple[ShapeProfile, ...] = ()
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    weight_streaming: bool = False
    tf32: bool = False

    def __post_init__(self) -> None:
        numbers = [capability_number(text) for text in self.compute_capabilities]
        if len(set(numbers)) < len(numbers):
            raise ConfigError(f"compute_capabilities holds one twice: {', '.join(self.compute_capabilities)}")
        names = [profile.name for profile in self.profiles]
        if len(set(names)) < len(names):
            raise ConfigError(f"profiles holds a name twice: {', '.join(names)}", hint="give each its own")
        if self.workspace_bytes is not None and not 1 << 20 <= self.workspace_bytes <= MAX_WORKSPACE:
            raise ConfigError(
                f"workspace_bytes is {self.workspace_bytes}",
                hint=f"must be 1 MiB to 1 TiB: --workspace-mib takes 1 to {MAX_WORKSPACE >> 20}",
            )
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise ConfigError(f"optimization_level is {self.optimization_level}", hint="must be 0 to 5")
