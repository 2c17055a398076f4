"""The sizes that a user declares to vary, checked against the example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from aigc_models.sources.nested import check_names
from aigc_runtime.core.tensors import DimSpec, StateSpec
from aigc_runtime.errors import ConfigError, UnknownNameError

__all__ = ["DeclaredSizes", "Dims"]

Dims = Mapping[str, Mapping[int, str | DimSpec]]
"""Input -> axis -> the name of a dimension whose size may vary, or that dimension with its range."""


class DeclaredSizes:
    """The sizes of a part: fixed as in the example, or named and free."""

    def __init__(self, tensors: Mapping[str, Tensor], dims: Dims, state: Sequence[StateSpec]) -> None:
        self._tensors = tensors
        self._names: dict[tuple[str, int], str] = {}
        self.dims: dict[str, DimSpec] = {}
        self.given = frozenset(d.name for axes in dims.values() for d in axes.values() if isinstance(d, DimSpec))
        sizes: dict[str, int] = {}
        for name, axes in dims.items():
            if name not in tensors:
                raise UnknownNameError("input in dims", name, tensors)
            for axis, dim in axes.items():
                self._add(name, axis, dim, sizes)
        for spec in state:
            for axis, size in enumerate(spec.shape):
                if isinstance(size, str) and size.isidentifier():
                    self._add(spec.input, axis, size, sizes)

    def _add(self, name: str, axis: int, dim: str | DimSpec, sizes: dict[str, int]) -> None:
        shape = self._tensors[name].shape
        if isinstance(axis, bool) or not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
            raise ConfigError(
                f"dims names axis {axis!r} of {name!r}, whose example has shape {list(shape)}",
                hint=f"axes go from 0 to {len(shape) - 1}",
            )
        spec = DimSpec(name=dim) if isinstance(dim, str) else dim
        check_names([spec.name], what="dimension")
        size = shape[axis]
        if sizes.setdefault(spec.name, size) != size:
            raise ConfigError(
                f"dimension {spec.name!r} is {sizes[spec.name]} and {size} in the example",
                hint="one name stands for one size: give them two names",
            )
        known = self.dims.get(spec.name)
        if known is None or known == DimSpec(name=spec.name):
            self.dims[spec.name] = spec
        elif isinstance(dim, DimSpec) and dim != known:
            raise ConfigError(f"dimension {spec.name!r} is declared twice: {known} and {dim}")
        if size % spec.multiple_of or size < spec.min or (spec.max is not None and size > spec.max):
            raise ConfigError(f"dimension {spec.name!r} is {size} in the example, which {spec} does not allow")
        self._names[name, axis % len(shape)] = spec.name

    def shape(self, name: str) -> tuple[int | str, ...]:
        """The shape of an input: numbers, and the names of what varies."""
        return tuple(self._names.get((name, axis), size) for axis, size in enumerate(self._tensors[name].shape))
