"""What a manifest says about an engine that was compiled for certain devices.

It is enough to tell, without opening the engine, whether a device can run it and which shapes it takes. Work is counted
in multiply-accumulates of matrix products and convolutions; sizes are in bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from aigc_runtime.errors import ConfigError, FeedError

__all__ = [
    "WORK_TYPES",
    "EngineBuild",
    "Flavor",
    "ShapeProfile",
    "capability_number",
    "choose_profile",
    "read_capability",
]

Flavor = Literal["tensorrt", "tensorrt-rtx"]
WORK_TYPES = ("fp32", "fp16", "bf16", "int8", "fp8", "int4", "unknown")
"""Types that products are computed in; `unknown` is work that no layer of the engine could be held for."""

_CAPABILITY = re.compile(r"[1-9][0-9]?\.[0-9]")
_SPELLED = re.compile(r"(?:sm_?)?([1-9][0-9]?)\.?([0-9])", re.IGNORECASE)
_MAX_NAME = 200


def capability_number(text: str) -> int:
    """A compute capability as one number that sorts: "8.6" -> 86.

    >>> capability_number("12.0")
    120

    Raises:
        ConfigError: not of the form MAJOR.MINOR.
    """
    if not _CAPABILITY.fullmatch(text):
        like = read_capability(text) if _SPELLED.fullmatch(text) else "8.6"
        raise ConfigError(
            f"{text!r} is not a compute capability", hint=f"it reads like {like}, as `aigc-run doctor` says"
        )
    return int(text.replace(".", ""))


def read_capability(text: str) -> str:
    """A compute capability as people type it, in the form of manifests; anything else as it is.

    >>> [read_capability(text) for text in ("8.7", "87", "sm_87", "SM120", "orin")]
    ['8.7', '8.7', '8.7', '12.0', 'orin']
    """
    spelled = _SPELLED.fullmatch(text)
    return text if spelled is None else f"{spelled[1]}.{spelled[2]}"


@dataclass(frozen=True, kw_only=True)
class ShapeProfile:
    """One range of shapes that an engine is optimized for.

    Attributes:
        name: for messages.
        dims: named dimension -> (smallest, the one it is optimized for, largest).
    """

    name: str
    dims: dict[str, tuple[int, int, int]]

    def __post_init__(self) -> None:
        for dim, (low, best, high) in self.dims.items():
            if not 0 <= low <= best <= high:
                raise ConfigError(
                    f"profile {self.name!r}: {dim} is {low}:{best}:{high}",
                    hint="give smallest:best:largest, in that order, none below 0",
                )

    def sizes(self, kind: int) -> dict[str, int]:
        """The smallest (0), best (1) or largest (2) size of every dimension."""
        return {name: sizes[kind] for name, sizes in self.dims.items()}

    def admits(self, sizes: Mapping[str, int]) -> bool:
        """Whether every size that it knows is within its range."""
        return all(low <= sizes[dim] <= high for dim, (low, _, high) in self.dims.items() if dim in sizes)

    def __str__(self) -> str:
        ranges = ", ".join(f"{dim} {low} to {high}" for dim, (low, _, high) in self.dims.items())
        return f"{self.name}: {ranges or 'fixed shapes'}"


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
        parity: `engine`: the engine itself was run and compared with PyTorch; `graph`: the graph that it was built
            from was, by another engine, and the engine itself was built but not run.
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
    parity: Literal["engine", "graph"]
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


def choose_profile(profiles: Iterable[ShapeProfile], sizes: Mapping[str, int]) -> int:
    """The index of the profile to run sizes with: of those that admit them, the one with the narrowest ranges.

    A decoding step fits into the prefill profile as well; the narrower one has the faster kernels.

    Args:
        profiles: of the engine, in its order.
        sizes: of the named dimensions.

    Raises:
        FeedError: none admits them; lists the ranges.
    """
    known = list(profiles)
    fitting = [i for i, profile in enumerate(known) if profile.admits(sizes)]
    if not fitting:
        asked = ", ".join(f"{dim} {size}" for dim, size in sizes.items())
        ranges = "\n".join(str(profile) for profile in known)
        raise FeedError(
            f"no profile of the engine takes {asked}",
            hint=f"{ranges}\nask for a size within, or export again with --profile {example_option(sizes)}",
        )
    return min(fitting, key=lambda i: (_volume(known[i]), i))


def example_option(sizes: Mapping[str, int]) -> str:
    """The command line's `--profile` for a range up to `sizes`.

    >>> example_option({"batch": 9, "past": 0})
    'batch=1:9:9,past=0:0:0'
    """
    return ",".join(f"{dim}={min(1, size)}:{size}:{size}" for dim, size in sizes.items())


def _volume(profile: ShapeProfile) -> int:
    total = 1
    for low, _, high in profile.dims.values():
        total *= high - low + 1
    return total
