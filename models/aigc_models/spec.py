"""The specification of an export: a model's module, interface and pipeline settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import nn

from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, StateSpec, TensorSpec
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.settings import Pipeline

__all__ = ["ExportSpec", "example_feeds"]


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """A module with its interface, and the settings of the pipeline that runs it.

    Attributes:
        module: takes every graph input positionally, in the order of `interface.graph_inputs`, and returns a tuple in
            the order of `interface.graph_outputs`.
        family: which pipeline runs it.
        interface: names, types and shapes of everything that goes in and out.
        settings: of the pipeline.
        model_config: the PyTorch model's configuration, as JSON.
        example_ranges: input -> (low, high) that examples are drawn from, where all that the input allows would make
            an example unlike any real one: left padding longer than the text hides the whole KV cache.
    """

    module: nn.Module
    family: Literal["text", "diffusion", "gan"]
    interface: Interface
    settings: Pipeline
    model_config: dict[str, Any]
    example_ranges: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(self.example_ranges.keys() - {t.name for t in self.interface.inputs})
        if unknown:
            raise ConfigError(f"example_ranges names {unknown[0]!r}, which is not an input")


def example_feeds(spec: ExportSpec, sizes: Mapping[str, int], *, seed: int) -> dict[str, Array]:
    """Make seeded random arrays for every graph input: integers within their range, a buffer partly filled.

    Args:
        spec: the model.
        sizes: a size for every named dimension.
        seed: of the draw.

    Raises:
        ConfigError: a named dimension without a size, or more new steps than a buffer holds.
    """
    rng = np.random.default_rng(seed)
    ranges: dict[str, tuple[int, int]] = dict(spec.example_ranges)
    interface = spec.interface
    if interface.length_input is not None:
        ranges[interface.length_input] = _held_range(interface.state[0], sizes)
    return {t.name: _draw(rng, t, _shape(t, sizes), ranges.get(t.name)) for t in interface.graph_inputs}


def _held_range(state: StateSpec, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Choose how many steps a buffer may hold before the new ones; at least one where it can, so that they are seen."""
    steps, capacity = sizes.get(state.step_dim, 1), state.capacity or 0
    if steps > capacity:
        raise ConfigError(f"{steps} steps do not fit into the buffer {state.input!r} of {capacity}")
    return min(1, capacity - steps), capacity - steps + 1


def _shape(tensor: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    missing = [n for n in tensor.shape if isinstance(n, str) and n not in sizes]
    if missing:
        raise ConfigError(f"no size for dimension {missing[0]!r} of {tensor.name!r}", hint=f"given: {sorted(sizes)}")
    return tuple(n if isinstance(n, int) else sizes[n] for n in tensor.shape)


def _draw(rng: np.random.Generator, tensor: TensorSpec, shape: tuple[int, ...], given: tuple[int, int] | None) -> Array:
    """Draw one input; `given` is the half-open range to draw from in place of the tensor's own."""
    dtype = np.dtype(tensor.dtype)
    if dtype.kind == "f":
        values = rng.standard_normal(shape) if given is None else rng.uniform(*given, size=shape)
        return values.astype(dtype)
    low = tensor.low if tensor.low is not None else 0
    low, high = given or (low, tensor.high if tensor.high is not None else low + 2)
    return rng.integers(low, high, size=shape).astype(dtype)
