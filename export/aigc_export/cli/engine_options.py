"""Options of `export` that say how an engine is compiled; those that were given travel as `build`, by field."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from aigc_export.cli.paths import WRITTEN_PATH

__all__ = ["engine_options"]

_OPTIONS = (
    click.option("--compute-capability", multiple=True, help="Device to build for, such as 8.6; may be repeated."),
    click.option("--profile", multiple=True, help="Shapes in place of the derived: batch=1:4:8,...; may be repeated."),
    click.option("--workspace-mib", type=click.IntRange(min=1), help="Scratch memory of one layer on the device."),
    click.option("--optimization-level", type=click.IntRange(0, 5), help="0 builds quickly, 5 runs quickly."),
    click.option("--timing-cache", type=WRITTEN_PATH, help="Measured kernels, kept between builds on one device."),
    click.option("--version-compatible", is_flag=True, help="Let later versions run the engine."),
    click.option(
        "--hardware-compatibility",
        type=click.Choice(("none", "ampere_plus", "same_compute_capability")),
        default="none",
        show_default=True,
        help="Devices beside the building one.",
    ),
    click.option("--weight-streaming", is_flag=True, help="Let weights stay in host memory."),
    click.option("--tf32", is_flag=True, help="Let fp32 products round their operands to 10 bits of mantissa."),
)


def engine_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets those that were given as `build`: field of the target's settings -> value."""

    @functools.wraps(function)
    def command(
        *arguments: Any,
        compute_capability: tuple[str, ...],
        profile: tuple[str, ...],
        workspace_mib: int | None,
        optimization_level: int | None,
        timing_cache: Path | None,
        version_compatible: bool,
        hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"],
        weight_streaming: bool,
        tf32: bool,
        **named: Any,
    ) -> Any:
        from aigc_export.targets.profiles import parse_profile
        from aigc_runtime.device.capability import read_capability

        build = {
            "compute_capabilities": tuple(map(read_capability, compute_capability)),
            "profiles": tuple(parse_profile(text, number=i) for i, text in enumerate(profile)),
            "workspace_bytes": None if workspace_mib is None else workspace_mib << 20,
            "optimization_level": optimization_level,
            "timing_cache": timing_cache,
            "version_compatible": version_compatible,
            "hardware_compatibility": None if hardware_compatibility == "none" else hardware_compatibility,
            "weight_streaming": weight_streaming,
            "tf32": tf32,
        }
        # 0 is an optimization level of its own.
        given = {name: value for name, value in build.items() if value or (value == 0 and value is not False)}
        return function(*arguments, build=given, **named)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command
