"""The form in which a target takes carried state: growing, in buffers, or in buffers of a fixed capacity."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest

from aigc_models.program import Part, Program
from aigc_runtime.errors import ConfigError

__all__ = ["fixed_capacity", "in_buffers"]


def in_buffers(program: Program) -> Program:
    """Carry its state in buffers, where the user left its form open; any other program stays as it is.

    So does one whose parts were replaced since: their counterparts are those of others.
    """
    others = program.buffered
    belong = bool(others) and all(_belongs(others.get(name), part) for name, part in program.parts.items())
    return replace(program, parts=others, buffered={}) if belong else program


def _belongs(buffered: Part | None, part: Part) -> bool:
    """Whether it is the same over the same weights, but for the form of its state."""
    if buffered is None:
        return False
    weights = zip_longest(buffered.module.parameters(), part.module.parameters())
    if any(one is not other for one, other in weights):
        return False
    same = replace(buffered, module=part.module, interface=part.interface, limits=part.limits)
    outside = replace(buffered.interface, state=part.interface.state, dims=part.interface.dims)
    return same == part and outside == part.interface


def fixed_capacity(program: Program) -> Program:
    """Make every buffer whose capacity is a dimension as large as that allows; any other program stays as it is.

    For engines that cannot enlarge a buffer between runs.

    Raises:
        ConfigError: nothing says how large.
    """
    parts = {name: _fixed(part) for name, part in program.parts.items()}
    return program if parts == program.parts else replace(program, parts=parts)


def _fixed(part: Part) -> Part:
    interface = part.interface
    name = interface.capacity_dim
    if name is None:
        return part
    most = interface.dims_by_name[name].max
    if most is None:
        raise ConfigError(
            f"part {part.name!r}: its buffers have {name!r} places, of which nothing says how many there may be",
            hint=f"this target needs a number: declare DimSpec(name={name!r}, max=...)",
        )
    state = tuple(
        replace(spec, shape=tuple(most if size == name else size for size in spec.shape)) for spec in interface.state
    )
    dims = tuple(dim for dim in interface.dims if dim.name != name)
    return replace(part, interface=replace(interface, state=state, dims=dims))
