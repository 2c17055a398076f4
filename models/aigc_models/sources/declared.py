"""The sizes that a user, or the carried state, declares to vary, checked against the example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from aigc_models.sources.nested import check_names
from aigc_runtime.core.sizes import parse_size
from aigc_runtime.core.tensors import DimSpec, StateSpec
from aigc_runtime.errors import ConfigError, UnknownNameError

__all__ = ["DeclaredSizes", "Dims"]

Dims = Mapping[str, Mapping[int, str | DimSpec]]
"""Input -> axis -> the name of a dimension whose size may vary, that dimension with its range, or a sum of names."""


class DeclaredSizes:
    """The sizes of a part: fixed as in the example, or named and free."""

    def __init__(self, tensors: Mapping[str, Tensor], dims: Dims, state: Sequence[StateSpec]) -> None:
        self._tensors = tensors
        self._names: dict[tuple[str, int], str] = {}
        self.dims: dict[str, DimSpec] = {}
        self.given = frozenset(d.name for axes in dims.values() for d in axes.values() if isinstance(d, DimSpec))
        sizes: dict[str, int] = {}
        sums: list[tuple[str, int, str]] = []
        for name, axes in dims.items():
            if name not in tensors:
                raise UnknownNameError("input in dims", name, tensors)
            for axis, dim in axes.items():
                if isinstance(dim, str) and "+" in dim:
                    sums.append((name, axis, parse_size(dim).text))
                else:
                    self._add(name, axis, dim, sizes)
        for spec in state:
            for axis, size in enumerate(spec.shape):
                if isinstance(size, str):
                    begins = DimSpec(name=size, min=0) if size == spec.growing_dim else size
                    self._add(spec.input, axis, begins, sizes)
        for name, axis, text in sums:
            self._add_sum(name, axis, text, sizes)

    def _size(self, name: str, axis: int) -> int:
        shape = self._tensors[name].shape
        if isinstance(axis, bool) or not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
            raise ConfigError(
                f"dims names axis {axis!r} of {name!r}, whose example has shape {list(shape)}",
                hint=f"axes go from 0 to {len(shape) - 1}",
            )
        return shape[axis]

    def _add_sum(self, name: str, axis: int, text: str, sizes: Mapping[str, int]) -> None:
        size, wanted = self._size(name, axis), parse_size(text).value(sizes)
        if size != wanted:
            raise ConfigError(
                f"axis {axis} of {name!r} is declared as {text}, and is {size} in the example",
                hint=f"there it is {', '.join(f'{dim} {number}' for dim, number in sizes.items())}"
                if wanted is not None
                else f"declare every one of {', '.join(parse_size(text).names)} as a dimension of an input",
            )
        self._names[name, axis % self._tensors[name].ndim] = text

    def _add(self, name: str, axis: int, dim: str | DimSpec, sizes: dict[str, int]) -> None:
        size = self._size(name, axis)
        spec = DimSpec(name=dim) if isinstance(dim, str) else dim
        check_names([spec.name], what="dimension")
        if sizes.setdefault(spec.name, size) != size:
            raise ConfigError(
                f"dimension {spec.name!r} is {sizes[spec.name]} and {size} in the example",
                hint="one name stands for one size: give them two names",
            )
        known = self.dims.get(spec.name)
        if known is None or known == DimSpec(name=spec.name):
            self.dims[spec.name] = spec
        elif isinstance(dim, DimSpec) and dim not in (known, DimSpec(name=dim.name, min=0)):
            raise ConfigError(f"dimension {spec.name!r} is declared twice: {known} and {dim}")
        if size % spec.multiple_of or size < spec.min or (spec.max is not None and size > spec.max):
            raise ConfigError(f"dimension {spec.name!r} is {size} in the example, which {spec} does not allow")
        self._names[name, axis % self._tensors[name].ndim] = spec.name

    def shape(self, name: str) -> tuple[int | str, ...]:
        """The shape of an input: numbers, and the names of what varies."""
        return tuple(self._names.get((name, axis), size) for axis, size in enumerate(self._tensors[name].shape))
