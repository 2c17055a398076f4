"""Load weights from the disk into a module that was just built: one tensor at a time, into the module's own memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from aigc_models.weights.load_into import (
    check_fits,
    check_same,
    check_type,
    conversions,
    convert,
    require_finite,
    tied_names,
)
from aigc_models.weights.stored_weights import WeightsReader

__all__ = ["build_undrawn", "stream_into"]

_DRAWS = frozenset(
    (
        Tensor.normal_,
        Tensor.uniform_,
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.kaiming_uniform_,
        nn.init.kaiming_normal_,
    )
)
"""As PyTorch names them to a mode: tensors' methods, and those functions of `nn.init` that ask a mode themselves."""


class _NoDraws(TorchFunctionMode):
    """Leaves tensors as they are where they would be filled at random."""

    def __torch_function__(  # type: ignore[no-untyped-def]
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ):
        given = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def build_undrawn(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a module whose weights will all be loaded: no time is spent on random ones, nor memory touched."""
    with _NoDraws():
        return build()


def stream_into(module: nn.Module, weights: WeightsReader, *, source: str = "checkpoint") -> tuple[str, ...]:
    """Load weights from the disk into a module, as `load_into` does with tensors in memory.

    Names, shapes and types are checked before anything is read, every value while it is. So after an error the
    module holds a part of the weights and must not be used.

    Args:
        module: on the CPU; its parameters and persistent buffers are replaced.
        weights: by the names of its state dict.
        source: what holds them, for messages.

    Returns:
        What was converted, a sentence for each type.

    Raises:
        CheckpointError: see `load_into`; or a file cannot be read, or was changed meanwhile.
    """
    given = check_fits(module, weights.described(), source=source)
    state = module.state_dict()
    for name, wanted in state.items():
        check_type(name, given[name].dtype, wanted.dtype, source)
    tied = tied_names(module)
    first: dict[tuple[str, ...], str] = {}
    with torch.no_grad():
        # A tied tensor that is there twice is read beside the first, and compared with it.
        for name, tensor in weights.stream(lambda n: None if tied.get(n, (n,)) in first else state[n]):
            require_finite({name: tensor}, source)
            numbers = convert(name, tensor, state[name].dtype, source)
            before = first.setdefault(tied.get(name, (name,)), name)
            if before != name:
                check_same(before, name, {before: state[before], name: numbers}, source)
            elif numbers is not state[name]:
                state[name].copy_(numbers)
    return conversions(given, state)
