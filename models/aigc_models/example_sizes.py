"""Choose sizes for the named dimensions of a part, on which it is captured and run as an example."""

from __future__ import annotations

from collections.abc import Mapping

from aigc_models.program import Part, SizeLimit
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import DimSpec

__all__ = ["example_sizes", "run_sizes"]


def example_sizes(part: Part) -> dict[str, int]:
    """Choose example sizes of the named dimensions: distinct, and neither 0 nor 1, which the exporter would fix."""
    sizes: dict[str, int] = {}
    for i, dim in enumerate(part.interface.dims):
        size = max(dim.min, (i + 2) * dim.multiple_of)
        sizes[dim.name] = size if dim.max is None else min(size, dim.max)
    if part.interface.length_inputs:  # whose numbers must be such that the new steps fit
        for limit in _state_limits(part.interface):
            sizes = _within(sizes, limit, part.interface.dims_by_name)
    return _with_places(sizes, part.interface)


def _with_places(sizes: dict[str, int], interface: Interface) -> dict[str, int]:
    """Add the places of buffers whose capacity is a dimension: for the new steps, and three times as many held ones."""
    name = interface.capacity_dim
    if name is None:
        return sizes
    dim = interface.dims_by_name[name]
    steps = sizes.get(interface.step_dim or "", 1) + sizes.get(interface.growing_dim or "", 0)
    places = -(-max(sizes[name], 4 * steps) // dim.multiple_of) * dim.multiple_of
    return {**sizes, name: dim.nearest(places)}


def _state_limits(interface: Interface) -> tuple[SizeLimit, ...]:
    """The limit on held and new steps together that follows from the carried state."""
    dims = tuple(dim for dim in (interface.growing_dim, interface.step_dim) if dim is not None)
    return () if interface.max_steps is None else (SizeLimit(dims=dims, max=interface.max_steps),)


def run_sizes(part: Part) -> tuple[dict[str, int], dict[str, int]]:
    """Choose two sets of sizes that the model takes: a rewrite that is right for one size only must fail.

    An example for capture alone may be longer than a small context, since nothing is computed on it.
    """
    example, units = example_sizes(part), part.interface.dims_by_name
    larger = {name: units[name].nearest(size + units[name].multiple_of) for name, size in example.items()}
    first, second = example, larger
    for limit in (*part.limits, *_state_limits(part.interface)):
        first, second = _within(first, limit, units), _within(second, limit, units)
        if all(first[name] == second[name] for name in limit.dims):
            second = _other(second, limit, units)
    return _with_places(first, part.interface), _with_places(second, part.interface)


def _within(sizes: dict[str, int], limit: SizeLimit, units: Mapping[str, DimSpec]) -> dict[str, int]:
    """Cut sizes down to what they may be together: each but the last to its share, the last to what they leave."""
    *others, last = limit.dims
    cut = {name: units[name].nearest(min(sizes[name], limit.max // len(limit.dims))) for name in others}
    return {**sizes, **cut, last: min(sizes[last], limit.max - sum(cut.values()))}


def _other(sizes: dict[str, int], limit: SizeLimit, units: Mapping[str, DimSpec]) -> dict[str, int]:
    """Other sizes within the limit: all of it for the last dimension, or one less where there is no other."""
    *others, last = limit.dims
    if not others:
        return {**sizes, last: max(1, sizes[last] - 1)}
    least = {name: units[name].min for name in others}
    return {**sizes, **least, last: limit.max - sum(least.values())}
