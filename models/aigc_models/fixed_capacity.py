"""Give buffers whose capacity is a dimension a fixed one, for engines that cannot enlarge them between runs."""

from __future__ import annotations

from dataclasses import replace

from aigc_models.program import Part, Program
from aigc_runtime.errors import ConfigError

__all__ = ["fixed_capacity"]


def fixed_capacity(program: Program) -> Program:
    """Make every such buffer as large as its dimension lets it be; a program without one stays as it is.

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
