"""A part of one of our programs beside diffusers' or transformers' own component."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from aigc_models.program import Program
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.tensors import Array

TOLERANCE = 1e-5  # float32, relative to the largest output


def run(program: Program, part: str, *feeds: Tensor) -> list[Array]:
    """What a part gives for its inputs, in their order."""
    found = program.parts[part]
    names = [spec.name for spec in found.interface.inputs]
    outputs = TorchSession(found).run({n: t.numpy() for n, t in zip(names, feeds, strict=True)})
    return [outputs[name] for name in found.interface.graph_outputs]


def far(actual: Array, expected: Tensor) -> bool:
    """Whether an output differs by more than rounding."""
    assert actual.shape == tuple(expected.shape)
    return bool(np.abs(actual - expected.numpy()).max() > TOLERANCE * float(expected.abs().max()))
