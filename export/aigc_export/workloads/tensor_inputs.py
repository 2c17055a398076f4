"""Inputs of a program whose arrays mean nothing to us: the user's example, and draws that are like it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aigc_models.example_sizes import run_sizes
from aigc_models.program import Program, draw_like_example, example_feeds
from aigc_models.torch_session import open_torch
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.sizes import shape_names
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.pipelines.tensors import TensorsPipeline

__all__ = ["are_taken", "draw_like", "drawn_inputs", "example_inputs", "input_interface", "torch_program"]


def torch_program(program: Program) -> OpenProgram:
    """Open every part in PyTorch."""
    return open_torch(program)


def input_interface(program: Program) -> Interface:
    """Describe what the whole row of engines is fed, as the interface of one graph."""
    inputs = tuple(TensorsPipeline(torch_program(program), program.settings, program.engines).inputs.values())
    dims = {dim.name: dim for part in program.parts.values() for dim in part.interface.dims}
    named = {name for tensor in inputs for name in shape_names(tensor.shape)}
    # What comes out does not matter here, and an interface has something that does.
    return Interface(inputs=inputs, outputs=inputs[:1], dims=tuple(dims[name] for name in sorted(named)))


def are_taken(program: Program, opened: OpenProgram, inputs: Mapping[str, Array]) -> bool:
    """Check whether the engines take inputs of these shapes, from an empty state on."""
    try:
        TensorsPipeline(opened, program.settings, program.engines).generate(inputs)
    except InputError:
        return False
    return True


def example_inputs(program: Program) -> dict[str, Array]:
    """Collect the example of every input; draw small ones where there is none, or none that begins with no state."""
    names = [tensor.name for tensor in input_interface(program).inputs]
    known = {name: array for part in program.parts.values() for name, array in part.examples.items()}
    opened = torch_program(program)
    if all(name in known for name in names):
        found = {name: np.asarray(known[name]) for name in names}
        if are_taken(program, opened, found):
            return found
    return drawn_inputs(program, opened, larger=False, seed=0)


def drawn_inputs(program: Program, opened: OpenProgram, *, larger: bool, seed: int) -> dict[str, Array]:
    """Draw inputs of sizes that the engines take.

    Args:
        program: says what the numbers are like.
        opened: bounds the sizes.
        larger: take the larger of two sets of sizes.
        seed: of the draw.
    """
    names = [tensor.name for tensor in input_interface(program).inputs]
    inputs: dict[str, Array] = {}
    shared: dict[str, int] = {}
    for name, part in program.parts.items():
        own = run_sizes(part)[1 if larger else 0]
        for dim in opened.session(name).interface.dims:
            # A size has one name in all parts. Nothing is held when a request begins.
            held = dim.name == part.interface.growing_dim
            shared.setdefault(dim.name, 0 if held else dim.nearest(own[dim.name]))
        feeds = example_feeds(part, {**own, **shared}, seed=seed)
        inputs.update({key: array for key, array in feeds.items() if key in names and key not in inputs})
    return {name: inputs[name] for name in names}


def draw_like(examples: Mapping[str, Array], rng: np.random.Generator) -> dict[str, Array]:
    """Draw inputs of the example's shapes and numbers; see `aigc_models.program.draw_like_example`."""
    return {
        name: draw_like_example(array, array.shape, rng).astype(array.dtype, copy=False)
        for name, array in examples.items()
    }
