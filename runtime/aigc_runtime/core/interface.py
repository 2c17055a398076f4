"""The interface of one graph: everything that goes in and comes out, as one value that is handed on whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np

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
        state: the carried tensors: all of one kind, with one length input and one step dimension.

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
        _check_state(self.state)
        for tensor in (*self.inputs, *self.outputs):
            _check_bounds(tensor)

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

    @property
    def length_input(self) -> str | None:
        """The input that takes the number of steps held so far; None where the state is no buffer."""
        return next((spec.length_input for spec in self.state if spec.length_input), None)

    @cached_property
    def graph_inputs(self) -> tuple[TensorSpec, ...]:
        """Every input of the graph, in its order: those that a caller feeds, the length, the state."""
        length = self.length_input
        lengths = () if length is None else (TensorSpec(name=length, dtype="int64", shape=(1,), low=0),)
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
    if not interface.inputs or not interface.outputs or any(not tensor.shape for tensor in interface.inputs):
        raise ConfigError("an engine needs inputs, each with a batch dimension, and outputs")
    for kind, names in (
        ("inputs", [tensor.name for tensor in interface.graph_inputs]),
        ("outputs", list(interface.graph_outputs)),
        ("dims", [dim.name for dim in interface.dims]),
    ):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"{kind} holds a name twice: {twice}", hint="every tensor and dimension needs its own")


def _check_dimensions(interface: Interface) -> None:
    declared = [dim.name for dim in interface.dims]
    sized = {size for tensor in interface.inputs for size in tensor.shape if isinstance(size, str)}
    for tensor in (*interface.inputs, *interface.graph_inputs[len(interface.inputs) :]):
        for size in tensor.shape:
            for part in size.split("+") if isinstance(size, str) else ():
                if part not in declared:
                    raise ConfigError(
                        f"input {tensor.name!r} has the dimension {part!r}, which dims does not declare",
                        hint=f"declared: {', '.join(declared) or '(none)'}",
                    )
    for tensor in interface.outputs:
        for size in tensor.shape:
            if isinstance(size, str) and size not in sized:
                raise ConfigError(f"output {tensor.name!r} has dimension {size!r}, which no input has")
    for spec in interface.state:
        if spec.step_dim not in sized:
            raise ConfigError(f"state {spec.input!r} steps along {spec.step_dim!r}, which no input has")


def _check_state(state: Sequence[StateSpec]) -> None:
    facts: Mapping[str, set[object]] = {
        "kind": {spec.kind for spec in state},
        "length_input": {spec.length_input for spec in state},
        "step_dim": {spec.step_dim for spec in state},
        "size along its axis": {spec.shape[spec.axis] for spec in state},
    }
    for name, values in facts.items():
        if len(values) > 1:
            shown = " and ".join(sorted(map(str, values)))
            raise ConfigError(f"the carried state mixes {name} {shown}", hint="use one for all of it")


def _check_bounds(tensor: TensorSpec) -> None:
    if tensor.low is None and tensor.high is None:
        return
    kind = np.dtype(tensor.dtype)
    if kind.kind not in "iu":
        raise ConfigError(f"tensor {tensor.name!r} is {tensor.dtype} and has bounds", hint="only integers have them")
    least, most = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    low, high = least if tensor.low is None else tensor.low, most + 1 if tensor.high is None else tensor.high
    if not least <= low < high <= most + 1:
        raise ConfigError(
            f"tensor {tensor.name!r} has low {tensor.low}, high {tensor.high}",
            hint=f"need low < high, within {tensor.dtype}",
        )
