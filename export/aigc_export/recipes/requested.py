"""Refuse what is asked of a quantization and would change nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aigc_calibration.calibrate import CALIBRATED
from aigc_calibration.plan import PRECISIONS, SitePrecision
from aigc_export.recipes.default_quantization import site_precisions
from aigc_export.targets.base import Target
from aigc_export.workloads import Workload
from aigc_runtime.errors import ConfigError

__all__ = ["check_calibration", "check_requested", "readers"]

_EIGHT_BITS: tuple[SitePrecision, ...] = ("int8", "fp8")
_WEIGHTS: tuple[SitePrecision, ...] = ("int8-weight", "int4-weight")
_ALL = tuple(one for one in PRECISIONS if one != "float")
_READ_BY: dict[str, tuple[str, tuple[SitePrecision, ...]]] = {
    "keep_float": ("--keep-float", _ALL),
    "float_share": ("--float-share", _EIGHT_BITS),
    "rotate": ("--rotate", ("int8",)),
    "split_skips": ("--split-skips", _EIGHT_BITS),
    "equalize": ("--equalize", ("int8",)),
    "ranges": ("--ranges", ("int8",)),
    "weight_ranges": ("--weight-ranges", _EIGHT_BITS),
    "weight_method": ("--weight-method", (*_WEIGHTS, *_EIGHT_BITS)),
    "block": ("--block", _WEIGHTS),
    "weight_zero_points": ("--weight-zero-points", ("int4-weight",)),
    "allow_slower": ("--allow-slower", _ALL),
}
"""Argument of a recipe -> its option, and the precisions of sites that read it."""


def readers(sites: Sequence[SitePrecision], workload: Workload, target: Target) -> tuple[str, ...]:
    """List the precisions of a target, by the names that users write, in which sites may get one of these."""
    return tuple(p for p in target.precisions if set(site_precisions(workload, target, (p,))) & set(sites))


def check_calibration(
    precision: str, workload: Workload, target: Target, *, calibration: str | None, own_samples: bool
) -> None:
    """Refuse samples or a calibration that nothing would read.

    Args:
        precision: the lowest of the recipe's.
        workload: of the model's kind.
        target: of the recipe.
        calibration: file of an earlier one.
        own_samples: whether samples were asked for.

    Raises:
        ConfigError: nothing would read them.
    """
    if precision == "fp32" and (own_samples or calibration is not None):
        raise ConfigError("calibration data for fp32, which needs none", hint="add --precision int8, or leave it out")
    if calibration is None:
        return
    if own_samples:
        raise ConfigError(
            "a calibration and calibration samples were both given", hint="leave one out: the file holds its ranges"
        )
    if not set(site_precisions(workload, target, (precision,))) & set(CALIBRATED):
        takers = readers(CALIBRATED, workload, target)
        raise ConfigError(
            f"{_named((precision,), workload, target)} reads no ranges of activations, which are all that a "
            "calibration file holds",
            hint=f"leave --calibration out; on {target.name} it is for {', '.join(takers) or 'no precision'}",
        )


def check_requested(
    requested: Mapping[str, Any],
    precisions: Sequence[str],
    workload: Workload,
    target: Target,
    *,
    calibration: str | None,
) -> None:
    """Refuse a choice that nothing would read.

    Args:
        requested: argument of a recipe -> what was asked for.
        precisions: of all parts.
        workload: of the model's kind.
        target: of the recipe.
        calibration: file of an earlier one.

    Raises:
        ConfigError: nothing would read it.
    """
    for name, why in (("allow_slower", "times what it tries"), ("float_share", "finds what must stay float")):
        if name in requested and "auto" in precisions:
            raise ConfigError(
                f"{_READ_BY[name][0]} changes nothing in auto", hint=f"leave it out: a search {why} by itself"
            )
    sites = site_precisions(workload, target, precisions)
    for name in requested.keys() & _READ_BY.keys():
        option, read_by = _READ_BY[name]
        if (name, requested[name]) == ("weight_method", "awq"):
            option, read_by = f"{option} awq", _WEIGHTS
        if not set(sites) & set(read_by):
            takers = readers(read_by, workload, target)
            others = f", or choose --precision {', '.join(takers)}" if takers else ""
            raise ConfigError(
                f"{option} changes nothing in {_named(precisions, workload, target)}", hint=f"leave it out{others}"
            )
    for name in ("rotate", "split_skips", "equalize", "float_share"):
        if name in requested and calibration is not None:
            option, _ = _READ_BY[name]
            raise ConfigError(
                f"{option} with a calibration file, which was made with it or without",
                hint=f"leave it out; `aigc-export calibrate {option}` makes a file with it",
            )


def _named(precisions: Sequence[str], workload: Workload, target: Target) -> str:
    """Name precisions, with what they are where that is another than the name says."""
    run_as = [name for name in precisions if workload.run_as(name, target.format) != name]
    why = f" ({workload.kind} models run it on {target.name} as 8-bit weights in blocks)" if run_as else ""
    return f"{', '.join(precisions)}{why}"
