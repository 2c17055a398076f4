"""The user's settings as a builder's configuration; a setting that a library cannot follow is an error, not a no-op."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aigc_export.targets.tensorrt.library import Library
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_runtime.errors import ConfigError
from aigc_runtime.io.publish import atomic_write_bytes
from aigc_runtime.io.user_file import read_file

__all__ = ["check_settings", "keep_timing_cache", "make_config"]

MAX_TIMING_CACHE_BYTES = 2**31


def check_settings(library: Library, settings: BuildSettings) -> None:
    """Check before the build that the library follows every setting.

    Raises:
        ConfigError: names the setting.
    """
    level = settings.hardware_compatibility
    if not library.ahead_of_time:
        levels = getattr(library.module, "HardwareCompatibilityLevel", None)
        if level != "none" and not hasattr(levels, level.upper()):
            raise ConfigError(
                f"TensorRT {library.version} has no hardware compatibility level {level.upper()}",
                hint="leave the option out, and build on every kind of device",
            )
        return
    for given, what in (
        (settings.version_compatible, "version compatibility"),
        (level != "none", "hardware compatibility levels (it takes --compute-capability)"),
        # The calls are there, deprecated, and do nothing.
        (settings.timing_cache is not None, "timing cache"),
    ):
        if given:
            raise ConfigError(f"TensorRT-RTX has no {what}", hint="leave the option out, or use --target tensorrt")


def make_config(
    library: Library,
    builder: Any,
    settings: BuildSettings,
    profiles: Sequence[Mapping[str, tuple[tuple[int, ...], ...]]],
) -> Any:
    """Make the builder's configuration of one build.

    Raises:
        ConfigError: the library cannot follow a setting, or refuses a profile.
        InputError: the timing cache cannot be read.
    """
    check_settings(library, settings)
    module, config = library.module, builder.create_builder_config()
    if library.ahead_of_time:
        _devices(library, config, settings)
    else:
        _compatibility(library, config, settings)
    if settings.weight_streaming:
        _flag(library, config, "WEIGHT_STREAMING", "weight streaming")
    if not settings.tf32 and library.has_flag("TF32"):
        config.clear_flag(module.BuilderFlag.TF32)
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    # Only then does the builder list the layers that it compiled, with the ONNX nodes in each.
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    for number, shapes in enumerate(profiles):
        _profile(builder, config, number, shapes)
    return config


def _flag(library: Library, config: Any, name: str, what: str) -> None:
    if not library.has_flag(name):
        raise ConfigError(f"{library.module.__name__} {library.version} has no {what}", hint="leave the option out")
    config.set_flag(getattr(library.module.BuilderFlag, name))


def _devices(library: Library, config: Any, settings: BuildSettings) -> None:
    """Named devices, of TensorRT-RTX."""
    members = library.module.ComputeCapability
    config.num_compute_capabilities = len(settings.compute_capabilities)
    for i, text in enumerate(settings.compute_capabilities):
        if not config.set_compute_capability(getattr(members, f"SM{text.replace('.', '')}"), i):
            raise ConfigError(f"TensorRT-RTX {library.version} refuses compute capability {text} in this combination")


def _compatibility(library: Library, config: Any, settings: BuildSettings) -> None:
    """The device at hand and those like it, of TensorRT."""
    module = library.module
    if settings.hardware_compatibility != "none":
        levels = module.HardwareCompatibilityLevel
        config.hardware_compatibility_level = getattr(levels, settings.hardware_compatibility.upper())
    if settings.version_compatible:
        _flag(library, config, "VERSION_COMPATIBLE", "version compatibility")
        # The device brings the lean runtime itself: one inside the engine would be code that nobody hashed apart.
        _flag(library, config, "EXCLUDE_LEAN_RUNTIME", "exclusion of the lean runtime")
    if settings.timing_cache is not None:
        cache = config.create_timing_cache(_held_timing_cache(settings.timing_cache))
        if cache is None or not config.set_timing_cache(cache, False):
            raise ConfigError(
                f"TensorRT {library.version} does not take the timing cache {str(settings.timing_cache)!r}",
                hint="remove the file: it was measured on another device or by another version",
            )


def _held_timing_cache(path: Path) -> bytes:
    """Read the timing cache of earlier builds; empty before the first."""
    return read_file(path, limit=MAX_TIMING_CACHE_BYTES) if path.exists() else b""


def keep_timing_cache(library: Library, config: Any, settings: BuildSettings) -> None:
    """Write what a build has measured, whole or not at all; called once that build is proven.

    Raises:
        OutputError: it cannot be written; an older file stays as it was.
    """
    if settings.timing_cache is not None and not library.ahead_of_time:
        atomic_write_bytes(settings.timing_cache, bytes(config.get_timing_cache().serialize()))


def _profile(builder: Any, config: Any, number: int, shapes: Mapping[str, tuple[tuple[int, ...], ...]]) -> None:
    profile = builder.create_optimization_profile()
    for name, (low, best, high) in shapes.items():
        profile.set_shape(name, low, best, high)
    if config.add_optimization_profile(profile) < 0:
        raise ConfigError(f"TensorRT refuses profile {number}: {dict(shapes)}")
