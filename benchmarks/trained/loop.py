"""The training loop of the benchmark's own modules: AdamW, a warm-up, half a cosine, clipped gradients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aigc_models.training.loop import LoopConfig, learning_rate
from trained.recipe import Training

__all__ = ["descend", "load_weights", "loop_config", "save_weights"]

WEIGHTS, CURVE = "model.safetensors", "curve.json"
POINTS = 100
"""Of a kept loss curve, at most."""


def loop_config(training: Training, *, ema: float = 0.0) -> LoopConfig:
    """The package's settings of a loop."""
    return LoopConfig(
        steps=training.steps,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        ema=ema,
        seed=training.seed,
    )


def descend(
    model: nn.Module, training: Training, loss: Callable[[torch.Generator], Tensor], *, weight_decay: float = 0.01
) -> list[float]:
    """Train a module in place and leave it in evaluation mode; return the loss of every step.

    Args:
        model: whose parameters are changed.
        training: its numbers.
        loss: of one batch, which the generator chooses.
        weight_decay: of all parameters.
    """
    config, rng = loop_config(training), torch.Generator().manual_seed(training.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay
    )
    model.train()
    losses = []
    for step in range(training.steps):
        optimizer.param_groups[0]["lr"] = training.learning_rate * learning_rate(step, config)
        optimizer.zero_grad(set_to_none=True)
        value = loss(rng)
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(value.item())
    model.eval()
    return losses


def save_weights(model: nn.Module, folder: Path, losses: list[float]) -> None:
    """Write the weights of a module, and some points of its loss curve."""
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS)
    every = max(1, len(losses) // POINTS)
    (folder / CURVE).write_text(json.dumps([round(value, 5) for value in losses[::every]]), encoding="utf-8")


def load_weights(model: nn.Module, folder: Path) -> nn.Module:
    """Read the weights of a module, all of them, and leave it in evaluation mode."""
    model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    return model.eval().requires_grad_(False)
