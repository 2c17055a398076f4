"""Check before memory is taken that weights are those of a model, and that the machine can hold it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from aigc_models.weights.load_into import check_fits
from aigc_models.weights.stream_into import build_undrawn
from aigc_runtime.errors import ConfigError
from aigc_runtime.system.host_memory import available_memory

__all__ = ["check_before_memory"]


def check_before_memory(
    build: Callable[[], nn.Module],
    described: Mapping[str, Tensor],
    *,
    source: str,
    tables: str = "are its sizes meant?",
) -> None:
    """Check that a file holds what a configuration describes, and that both fit into memory.

    Args:
        build: makes the module; it is called where tensors have no numbers.
        described: name -> tensor without numbers, under the names of the module.
        source: what holds them, for messages.
        tables: what may be wrong where the tables that a model computes are too large.

    Raises:
        CheckpointError: names the tensor that is missing, is not known or has another shape.
        ConfigError: more memory is needed than is free.
    """
    with torch.device("meta"):
        module = build_undrawn(build)
    check_fits(module, described, source=source)
    free = available_memory()
    for what, hint, needed in (
        ("tables", tables, sum(buffer.nbytes for buffer in module.buffers())),
        ("weights", "take a machine with more memory", sum(weight.nbytes for weight in module.parameters())),
    ):
        if free is not None and needed > free:
            raise ConfigError(
                f"a model of this config.json needs {needed / 2**30:,.1f} GiB of memory for its {what}, "
                f"{free / 2**30:,.1f} GiB are free",
                hint=hint,
            )
