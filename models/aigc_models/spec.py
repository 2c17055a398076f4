"""What an export needs to know about a model: named tensors, dynamic dimensions, carried state, pipeline settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import nn

from aigc_runtime.errors import ConfigError
from aigc_runtime.manifest import Pipeline
from aigc_runtime.tensors import Array, DimSpec, StateSpec, TensorSpec

__all__ = ["ExportSpec", "example_feeds"]


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """A module together with the names, types and shapes of everything that goes in and out.

    Attributes:
        module: takes every graph input positionally, in the order of `graph_inputs`, and returns a tuple in the order
            of `graph_outputs`.
        family: which pipeline runs it.
        inputs: what a caller feeds.
        outputs: what a caller gets.
        state: carried state.
        dims: the named dynamic dimensions.
        settings: of the pipeline.
        model_config: the PyTorch model's configuration, as JSON.
    """

    module: nn.Module
    family: Literal["text", "diffusion", "gan"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: tuple[DimSpec, ...]
    settings: Pipeline
    model_config: dict[str, Any]
    state: tuple[StateSpec, ...] = ()

    @property
    def length_input(self) -> str | None:
        """The input that takes the number of steps held, where the state is a buffer."""
        return next((s.length_input for s in self.state if s.length_input), None)

    @property
    def graph_inputs(self) -> tuple[TensorSpec, ...]:
        """Every input of the graph, in the module's order: caller's inputs, length, state."""
        length = self.length_input
        extra = () if length is None else (TensorSpec(name=length, dtype="int64", shape=(1,), low=0),)
        return (
            *self.inputs,
            *extra,
            *(TensorSpec(name=s.input, dtype=s.dtype, shape=s.shape) for s in self.state),
        )

    @property
    def graph_outputs(self) -> tuple[str, ...]:
        """Names of every output of the graph, in the module's order: caller's outputs, state."""
        return (*(s.name for s in self.outputs), *(s.output for s in self.state))


def example_feeds(spec: ExportSpec, sizes: Mapping[str, int], *, seed: int) -> dict[str, Array]:
    """Random arrays for every graph input, seeded; integers stay within their range.

    Args:
        spec: the model.
        sizes: a size for every named dimension.
        seed: of the draw.

    Raises:
        ConfigError: a named dimension without a size.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for tensor in spec.graph_inputs:
        missing = [n for n in tensor.shape if isinstance(n, str) and n not in sizes]
        if missing:
            raise ConfigError(
                f"no size for dimension {missing[0]!r} of {tensor.name!r}", hint=f"given: {sorted(sizes)}"
            )
        shape = tuple(n if isinstance(n, int) else sizes[n] for n in tensor.shape)
        if tensor.dtype == "float32":
            feeds[tensor.name] = rng.standard_normal(shape, dtype=np.float32)
        else:
            low = tensor.low if tensor.low is not None else 0
            high = tensor.high if tensor.high is not None else low + 1
            feeds[tensor.name] = rng.integers(low, high, size=shape).astype(tensor.dtype)
    return feeds
