"""The interface of one graph: everything that goes in and comes out, as one value that is handed on whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np

from aigc_runtime.core.sizes import parse_size, shape_names, size_names
from aigc_runtime.core.tensors import DimSpec, StateSpec, TensorSpec
from aigc_runtime.errors import ConfigError

__all__ = ["Interface"]


@dataclass(frozen=True, kw_only=True)
class Interface:
    """Inputs, outputs, named dimensions and carried state of a graph.

    Attributes:
        inputs: the tensors that a caller feeds.
        outputs: the tensors that a caller gets.
        dims: the named dynamic dimensions of the inputs and the state.
        state: the carried tensors, of one or several kinds; those that have steps step along one dimension.

    Raises:
        ConfigError: no session could run it: a name twice, a size that nothing determines, states that disagree.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: tuple[DimSpec, ...] = ()
    state: tuple[StateSpec, ...] = ()

    def __post_init__(self) -> None:
        _check_names(self)
        _check_dimensions(self)
        _check_state(self)
        for tensor in (*self.inputs, *self.outputs):
            _check_bounds(self, tensor)

    def input(self, name: str) -> TensorSpec | None:
        """The input of that name; None if the graph has no such input."""
        return next((tensor for tensor in self.inputs if tensor.name == name), None)

    def dim(self, name: str) -> DimSpec | None:
        """The dimension of that name; None if the graph has no such dimension."""
        return self.dims_by_name.get(name)

    @cached_property
    def dims_by_name(self) -> Mapping[str, DimSpec]:
        """The named dimensions by their names."""
        return MappingProxyType({dim.name: dim for dim in self.dims})

    @cached_property
    def length_inputs(self) -> tuple[str, ...]:
        """The inputs that take the number of steps held so far, in the order of the graph."""
        return tuple(dict.fromkeys(spec.length_input for spec in self.state if spec.length_input is not None))

    @cached_property
    def step_dim(self) -> str | None:
        """The dimension that says how many steps a run adds; None where nothing has steps."""
        return next((spec.step_dim for spec in self.state if spec.step_dim is not None), None)

    @cached_property
    def growing_dim(self) -> str | None:
        """The dimension whose size is the number of steps held; None where nothing grows."""
        return next((spec.growing_dim for spec in self.state if spec.growing_dim is not None), None)

    @cached_property
    def capacity_dim(self) -> str | None:
        """The dimension whose size is the number of places of the buffers; None where no buffer leaves it open."""
        return next((spec.capacity_dim for spec in self.state if spec.capacity_dim is not None), None)

    @cached_property
    def max_steps(self) -> int | None:
        """The most steps that the carried state may hold; None where any number fits."""
        rooms = [spec.room(0, self.dims_by_name) for spec in self.state]
        return min((room for room in rooms if room is not None), default=None)

    @cached_property
    def has_steady_state(self) -> bool:
        """Whether no run changes the shape of a carried tensor."""
        return all(spec.behavior.is_steady for spec in self.state)

    @cached_property
    def graph_inputs(self) -> tuple[TensorSpec, ...]:
        """Every input of the graph, in its order: those that a caller feeds, the lengths, the state."""
        lengths = (TensorSpec(name=name, dtype="int64", shape=(1,), low=0) for name in self.length_inputs)
        state = (TensorSpec(name=spec.input, dtype=spec.dtype, shape=spec.shape) for spec in self.state)
        return (*self.inputs, *lengths, *state)

    @cached_property
    def graph_outputs(self) -> tuple[str, ...]:
        """The name of every output of the graph, in its order: those that a caller gets, the state."""
        return (*(tensor.name for tensor in self.outputs), *(spec.output for spec in self.state))

    def with_dims(self, dims: Sequence[DimSpec]) -> Interface:
        """The same interface with other ranges of its dimensions."""
        return replace(self, dims=tuple(dims))


def _check_names(interface: Interface) -> None:
    if not interface.inputs or not interface.outputs:
        raise ConfigError("an engine needs inputs and outputs")
    for tensor in interface.inputs:
        if not tensor.shape:
            raise ConfigError(
                f"input {tensor.name!r} is a scalar: it has no dimension", hint="give it the shape [1] or ['batch']"
            )
    for kind, names in (
        ("inputs", [tensor.name for tensor in interface.graph_inputs]),
        ("outputs", list(interface.graph_outputs)),
        ("dims", [dim.name for dim in interface.dims]),
    ):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"{kind} holds a name twice: {twice}", hint="every tensor and dimension needs its own")


def _check_dimensions(interface: Interface) -> None:
    declared = [dim.name for dim in interface.dims]
    for tensor in interface.graph_inputs:
        for size in tensor.shape:
            for name in size_names(size):
                if name not in declared:
                    raise ConfigError(
                        f"input {tensor.name!r} has the dimension {name!r}, which dims does not declare",
                        hint=f"declared: {', '.join(declared) or '(none)'}",
                    )
            if isinstance(size, str) and not parse_size(size).is_sum:
                raise ConfigError(
                    f"input {tensor.name!r} has size {size!r}",
                    hint="an input's size is a number, a dimension or a sum of different ones; an output's may be more",
                )
    known = _determined(interface, (spec.growing_dim for spec in interface.state if spec.growing_dim is not None))
    for side, tensors in (("input", interface.inputs), ("output", interface.outputs)):
        for tensor in tensors:
            if lost := [name for name in shape_names(tensor.shape) if name not in known]:
                raise ConfigError(
                    f"{side} {tensor.name!r} has dimension {lost[0]!r}, which no input has",
                    hint=f"inputs have: {', '.join(sorted(known)) or '(none)'}",
                )


def _determined(interface: Interface, given: Iterable[str]) -> set[str]:
    """The dimensions whose sizes follow from the shapes of the inputs, and from those that are given."""
    shapes = [size_names(size) for tensor in interface.inputs for size in tensor.shape]
    known = set(given)
    while found := {name for names in shapes for name in names if known.issuperset({*names} - {name})} - known:
        known |= found
    return known


def _check_state(interface: Interface) -> None:
    state = interface.state
    for verb, found in (
        ("steps", {spec.step_dim for spec in state if spec.step_dim is not None}),
        ("grows", {spec.growing_dim for spec in state if spec.growing_dim is not None}),
        ("has buffers", {spec.capacity_dim for spec in state if spec.capacity_dim is not None}),
    ):
        if len(found) > 1:
            raise ConfigError(
                f"the carried state {verb} along {' and '.join(sorted(found))}", hint="use one dimension for all of it"
            )
    growing = None if interface.growing_dim is None else interface.dim(interface.growing_dim)
    if growing is not None and growing.min > 0:
        raise ConfigError(
            f"the carried state begins with 0 steps, dimension {growing.name!r} goes from {growing.min}",
            hint=f"let {growing.name!r} begin at 0 (min=0)",
        )
    sized = _determined(interface, ())
    if interface.capacity_dim is not None and interface.capacity_dim in (*sized, interface.growing_dim):
        raise ConfigError(
            f"the buffers have {interface.capacity_dim!r} places, which is a size of something else, too",
            hint="a session chooses the capacity: give it a dimension of its own",
        )
    for spec in state:
        if spec.step_dim is not None and spec.step_dim not in sized:
            raise ConfigError(f"state {spec.input!r} steps along {spec.step_dim!r}, which no input has")


def _check_bounds(interface: Interface, tensor: TensorSpec) -> None:
    if tensor.low is None and tensor.high is None:
        return
    kind = np.dtype(tensor.dtype)
    if kind.kind not in "iu":
        raise ConfigError(f"tensor {tensor.name!r} is {tensor.dtype} and has bounds", hint="only integers have them")
    least, most = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    low, high = least if tensor.low is None else tensor.low, most + 1
    if isinstance(tensor.high, int):
        high = tensor.high
    elif tensor.high is not None:
        high = _smallest_bound(interface, tensor, tensor.high)
    if not least <= low < high <= most + 1:
        raise ConfigError(
            f"tensor {tensor.name!r} has low {tensor.low}, high {tensor.high}",
            hint=f"need low < high, within {tensor.dtype}",
        )


def _smallest_bound(interface: Interface, tensor: TensorSpec, high: str) -> int:
    """The bound at the smallest sizes of its dimensions, where it is smallest."""
    size, known = parse_size(high), _determined(interface, ())
    if not size.is_sum:
        raise ConfigError(
            f"tensor {tensor.name!r} has high {high!r}",
            hint="a bound is a number, a dimension or a sum of different ones",
        )
    if lost := [name for name in size.names if name not in known]:
        raise ConfigError(
            f"tensor {tensor.name!r} has high {high!r}, and no input has the dimension {lost[0]!r}",
            hint=f"inputs have: {', '.join(sorted(known)) or '(none)'}",
        )
    smallest = size.value({name: interface.dims_by_name[name].min for name in size.names})
    assert smallest is not None
    return smallest
