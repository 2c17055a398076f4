"""What a manifest says about an engine that TensorRT or TensorRT-RTX compiled for certain devices.

It is enough to tell, without opening the engine, whether a device can run it and which shapes it takes. Work is counted
in multiply-accumulates of matrix products and convolutions; sizes are in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aigc_runtime.core.shape_profiles import ShapeProfile
from aigc_runtime.device.capability import capability_number
from aigc_runtime.errors import ConfigError

__all__ = ["WORK_TYPES", "EngineBuild", "Flavor"]

Flavor = Literal["tensorrt", "tensorrt-rtx"]
WORK_TYPES = ("fp32", "fp16", "bf16", "int8", "fp8", "int4", "unknown")
"""Types that products are computed in; `unknown` is work that no layer of the engine could be held for."""

_MAX_NAME = 200


@dataclass(frozen=True, kw_only=True)
class EngineBuild:
    """How an engine was compiled.

    Attributes:
        flavor: library that built it, and that alone can run it.
        version: of that library.
        cuda_major: CUDA version that the library needs of the driver; None where it did not say.
        platform: operating system and processor it was built for, such as `linux-x86_64`.
        compute_capabilities: devices it was built for.
        hardware_compatibility: `none`: exactly those devices; `ampere_plus`: every device from 8.0 on;
            `same_compute_capability`: every device of those capabilities, not only the very model it was built on.
        version_compatible: whether later versions of the library run it too.
        weight_streaming: whether weights may stay in host memory.
        device_memory_bytes: weights and activations at the largest shapes; None where the builder did not say.
        profiles: ranges of shapes; a shape outside all of them does not run.
        work: type -> share of the multiply-accumulates of all products that are computed in it.
        work_source: `engine`: read from the compiled layers; `network`: from the network that was handed to the
            compiler, which may still choose otherwise.
        gpu: model that classic TensorRT built it on, as its driver names it, and with `hardware_compatibility` `none`
            the only one that runs it; None for TensorRT-RTX, and in bundles from before format version 4.
    """

    flavor: Flavor
    version: str
    cuda_major: int | None
    platform: str
    compute_capabilities: tuple[str, ...]
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"]
    version_compatible: bool
    weight_streaming: bool
    device_memory_bytes: int | None
    profiles: tuple[ShapeProfile, ...]
    work: dict[str, float]
    work_source: Literal["engine", "network"]
    gpu: str | None = None

    def __post_init__(self) -> None:
        if not self.compute_capabilities:
            raise ConfigError("an engine build names no compute capability", hint="name every device it was built for")
        for text in self.compute_capabilities:
            capability_number(text)
        if not self.profiles:
            raise ConfigError("an engine build has no profile of shapes", hint="one without dims means fixed shapes")
        if unknown := sorted(self.work.keys() - set(WORK_TYPES)):
            raise ConfigError(f"work is counted in {unknown[0]!r}", hint=f"valid: {', '.join(WORK_TYPES)}")
        if not self.work or not 0.99 <= sum(self.work.values()) <= 1.01 or min(self.work.values()) < 0:
            raise ConfigError(f"work is {self.work}", hint="shares of one whole, none below 0")
        if self.device_memory_bytes is not None and self.device_memory_bytes < 0:
            raise ConfigError(f"device_memory_bytes is {self.device_memory_bytes}", hint="must be at least 0")
        self._check_gpu()

    def _check_gpu(self) -> None:
        if self.gpu is None:
            return
        if self.flavor != "tensorrt":
            raise ConfigError(f"a {self.flavor} engine names the GPU {self.gpu!r}", hint="it is for every model")
        if not 0 < len(self.gpu) <= _MAX_NAME or not self.gpu.isprintable():
            raise ConfigError(
                f"gpu is {self.gpu[:_MAX_NAME]!r}", hint=f"1 to {_MAX_NAME} printable characters, or null"
            )
