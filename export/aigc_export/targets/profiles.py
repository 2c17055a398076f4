"""Derive the ranges of shapes that an engine is optimized for from the named dimensions of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from aigc_export.workloads import Workload, get_workload
from aigc_export.workloads.base import Range
from aigc_export.workloads.sizes import BATCH
from aigc_models.program import Part, Program
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.shape_profiles import ShapeProfile
from aigc_runtime.core.sizes import shape_value
from aigc_runtime.core.tensors import DimSpec
from aigc_runtime.errors import ConfigError, UnknownNameError

__all__ = ["derive_profiles", "input_shapes", "narrowed", "parse_profile"]

LARGEST_BATCH = 16
"""Rows that an engine is built for by default: an edge device seldom runs more, and memory grows with it."""


def derive_profiles(
    program: Program, given: Sequence[ShapeProfile] = (), *, part: Part | None = None
) -> tuple[ShapeProfile, ...]:
    """Derive the profiles of a part, or complete and check the user's own.

    1. A range goes from the smallest size to the largest that the dimension and the kind of pipeline allow; where
       neither bounds it, to twice the size that is best for the kind.
    2. The kind says which profiles there are: a language model gets one for prompts and one for single tokens.
    3. A given profile replaces the derived ones; dimensions that it does not name keep their derived range.

    Args:
        program: the model.
        given: the user's.
        part: of the model; None for the only one.

    Raises:
        UnknownNameError: a given profile names a dimension that the model has not.
        ConfigError: a given range is outside what the model takes.
    """
    part, workload = part or program.part, get_workload(program.kind)
    ranges = {dim.name: _range(dim, part, workload, program.settings) for dim in part.interface.dims}
    if given:
        return tuple(_complete(profile, ranges, part.interface.dims) for profile in given)
    return workload.profiles(part, ranges)


def _range(dim: DimSpec, part: Part, workload: Workload, settings: Any) -> Range:
    """Choose the default range of one dimension."""
    if dim.name == BATCH:
        return max(1, dim.min), max(1, dim.min), min(LARGEST_BATCH, dim.max or LARGEST_BATCH)
    best = max(dim.min, workload.best_size(dim, part, settings) or dim.min)
    bounds = [size for size in (dim.max, workload.largest_size(dim, part, settings)) if size is not None]
    return dim.min, best, max(best, min(bounds)) if bounds else 2 * best


def _complete(given: ShapeProfile, ranges: Mapping[str, Range], dims: Sequence[DimSpec]) -> ShapeProfile:
    known = {dim.name: dim for dim in dims}
    for name, (low, _, high) in given.dims.items():
        if name not in known:
            raise UnknownNameError(f"dimension in profile {given.name!r}", name, known)
        dim = known[name]
        if low < dim.min or (dim.max is not None and high > dim.max):
            raise ConfigError(
                f"profile {given.name!r}: {name} goes from {low} to {high}",
                hint=f"the model takes {dim.min} to {'any size' if dim.max is None else dim.max}",
            )
        if any(size % dim.multiple_of for size in given.dims[name]):
            raise ConfigError(
                f"profile {given.name!r}: {name} is {':'.join(map(str, given.dims[name]))}",
                hint=f"the model takes multiples of {dim.multiple_of}",
            )
    return ShapeProfile(name=given.name, dims={**ranges, **given.dims})


_PART = re.compile(r"(\w+)=(\d+)(?::(\d+):(\d+))?")


def parse_profile(text: str, *, number: int) -> ShapeProfile:
    """Read a profile from the command line: `[NAME/]dim=SMALLEST:BEST:LARGEST,dim=SIZE,...`.

    >>> parse_profile("decode/batch=1:1:8,sequence=1", number=0).dims
    {'batch': (1, 1, 8), 'sequence': (1, 1, 1)}

    Args:
        text: as typed.
        number: names it where it has no name.

    Raises:
        ConfigError: not of that form.
    """
    name, slash, rest = text.partition("/")
    if not slash:
        name, rest = f"profile-{number}", text
    dims: dict[str, Range] = {}
    for part in rest.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None or match[1] in dims or not name:
            raise ConfigError(
                f"{text!r} is not a profile", hint="it reads like batch=1:4:8,sequence=1 or decode/batch=1:4:8"
            )
        low = int(match[2])
        dims[match[1]] = (low, int(match[3] or low), int(match[4] or low))
    return ShapeProfile(name=name, dims=dims)


def input_shapes(part: Part, profile: ShapeProfile) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Map each graph input to its smallest, best and largest shape."""
    return {
        tensor.name: tuple(
            shape_value(tensor.shape, profile.sizes(kind), f"input {tensor.name!r}") for kind in range(3)
        )
        for tensor in part.interface.graph_inputs
    }


def narrowed(interface: Interface, profiles: Sequence[ShapeProfile]) -> Interface:
    """Cut the dimensions of an interface down to what some profile takes."""
    return interface.with_dims(
        [
            DimSpec(
                name=dim.name,
                min=min(p.dims[dim.name][0] for p in profiles),
                max=max(p.dims[dim.name][2] for p in profiles),
                multiple_of=dim.multiple_of,
            )
            for dim in interface.dims
        ]
    )
