"""Calls of a pipeline of tensors one after the other on one carried state, as a device will make them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from aigc_runtime.core.program import ProgramState
from aigc_runtime.core.sizes import shape_value
from aigc_runtime.core.tensors import Array, bind_dims
from aigc_runtime.errors import InputError
from aigc_runtime.pipelines.tensors import TensorsPipeline

__all__ = ["MAX_TURNS", "Turn", "run_turns"]

MAX_TURNS = 4
"""Calls on one state, for samples: what an error in the state does to later calls is seen after a few."""

Turn = tuple[dict[str, Array], dict[str, Array]]
"""Inputs and outputs of one call."""


def run_turns(
    pipeline: TensorsPipeline, first: Mapping[str, Array], rng: np.random.Generator, *, most: int
) -> Iterator[Turn]:
    """Call a pipeline several times where it carries state, and once where it does not.

    Later inputs are drawn: they have the sizes and the numbers of the first ones, but for sizes that follow the number
    of held steps.

    Args:
        pipeline: over engines of any kind.
        first: inputs of the first call, which begins without state.
        rng: draws the later ones.
        most: calls, as long as they fit into the state.
    """
    sizes = bind_dims((spec, first[name].shape) for name, spec in pipeline.inputs.items())
    state = pipeline.new_state()
    yield dict(first), pipeline.generate(first, state)
    for _ in range(most - 1 if pipeline.carries_state else 0):
        inputs = _later(pipeline, first, {**sizes, **_held(pipeline, state)}, rng)
        try:
            outputs = pipeline.generate(inputs, state)
        except InputError:
            return  # the state is full
        yield inputs, outputs


def _held(pipeline: TensorsPipeline, state: ProgramState) -> dict[str, int]:
    """The sizes of the dimensions that grow with the state."""
    length = max((held.length for held in state.held.values()), default=0)
    growing = (pipeline.interface(stage).growing_dim for stage in pipeline.settings.stages)
    return {name: length for name in growing if name is not None}


def _later(
    pipeline: TensorsPipeline, first: Mapping[str, Array], sizes: Mapping[str, int], rng: np.random.Generator
) -> dict[str, Array]:
    return {
        name: rng.choice(first[name].ravel(), size=shape_value(spec.shape, sizes)).astype(spec.dtype, copy=False)
        for name, spec in pipeline.inputs.items()
    }
