"""A model of the toy kind, and the source that brings it in by a name of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aigc_models.program import Part, Program, QuantHints
from aigc_models.sources import Found
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import DimSpec, TensorSpec

from .kind import ROLE, SLOPE, IterateSettings, T, X

NAME = "toy-iterate"
WIDTH, STEPS = 16, 4


class Slope(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(WIDTH + 1, 48)
        self.middle = nn.Linear(48, 48)
        self.leave = nn.Linear(48, WIDTH)

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor]:
        y = torch.relu(self.enter(torch.cat([x, t[:, None] / STEPS], dim=1)))
        return (self.leave(y + torch.relu(self.middle(y))),)


def make_program() -> Program:
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    module = Slope().eval()
    torch.random.set_rng_state(state)
    part = Part(
        module=module,
        interface=Interface(
            inputs=(
                TensorSpec(name=X, dtype="float32", shape=("batch", WIDTH)),
                TensorSpec(name=T, dtype="float32", shape=("batch",)),
            ),
            outputs=(TensorSpec(name=SLOPE, dtype="float32", shape=("batch", WIDTH)),),
            dims=(DimSpec(name="batch", max=32),),
        ),
        example_ranges={T: (0, STEPS)},
        hints=QuantHints(sensitive=("leave",)),
    )
    return Program(
        name=NAME,
        kind="iterate",
        parts={part.name: part},
        settings=IterateSettings(width=WIDTH, steps=STEPS, step_size=0.5),
        engines={ROLE: part.name},
    )


class Source:
    def matches(self, found: Found) -> bool:
        return found.model == NAME

    def load(self, found: Found, options: Mapping[str, Any]) -> Program:
        return make_program()


SOURCE = Source()
