"""Weights of a component with adapters merged into them, one tensor at a time while it is read.

W' = W + s (alpha / r) B A                                 (Hu et al. 2021, eq. 3)
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from aigc_models.sources.diffusers.adapter import DiffusionAdapter, LowRank
from aigc_models.weights.stored_weights import WeightsReader
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["MergedWeights", "check_adapters"]

_SHOWN = 4


def check_adapters(adapters: Sequence[DiffusionAdapter], components: Collection[str]) -> None:
    """Refuse adapters that change components which a pipeline does not have.

    Args:
        adapters: opened.
        components: of the pipeline, those that an adapter may change.

    Raises:
        CheckpointError: names the adapter and the component.
    """
    for adapter in adapters:
        if unknown := sorted(adapter.modules.keys() - set(components)):
            raise CheckpointError(
                f"the adapter {adapter.where!r} changes a {unknown[0]}, which the pipeline does not have",
                hint="it is an adapter of another model",
            )


class MergedWeights:
    """Weights under our names, adapters merged into them in their order.

    Args:
        base: of the component.
        component: `unet`, `text_encoder` or `text_encoder_2`.
        adapters: opened.

    Raises:
        CheckpointError: an adapter for another model: names what the model does not have, or of which shape it is.
    """

    def __init__(self, base: WeightsReader, component: str, adapters: Sequence[DiffusionAdapter]) -> None:
        self._base, self._component = base, component
        self._described = base.described()
        self._steps: dict[str, list[tuple[DiffusionAdapter, LowRank]]] = {}
        modules = [name.removesuffix(".weight") for name in self._described if name.endswith(".weight")]
        # kohya's names have no dots, and no two modules are one without them.
        known = {**{name.replace(".", "_"): name for name in modules}, **{name: name for name in modules}}
        for adapter in adapters:
            self._plan(adapter, known)

    def _plan(self, adapter: DiffusionAdapter, known: dict[str, str]) -> None:
        given = adapter.modules.get(self._component, {})
        if unknown := [module for module in given if module not in known]:
            more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
            near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.3)
            raise CheckpointError(
                f"the adapter {adapter.where!r} changes {', '.join(map(shown, unknown[:_SHOWN]))}{more}, which the "
                f"{self._component} does not have",
                hint="it is an adapter of another model" + (f"; nearest here: {near[0]!r}" if near else ""),
            )
        for module, low in given.items():
            name = f"{known[module]}.weight"
            wanted, found = tuple(self._described[name].shape), adapter.shape(low)
            if found != wanted:
                raise CheckpointError(
                    f"the adapter {adapter.where!r} changes {module!r} of the {self._component} as one of "
                    f"{list(found)}, the model's is of {list(wanted)}",
                    hint="it is an adapter of another model",
                )
            self._steps.setdefault(name, []).append((adapter, low))

    def described(self) -> dict[str, Tensor]:
        """Describe every tensor; those that are merged are float32."""
        return {
            name: torch.empty(tensor.shape, dtype=torch.float32, device="meta") if name in self._steps else tensor
            for name, tensor in self._described.items()
        }

    def stream(self, into: Callable[[str], Tensor | None] = lambda _: None) -> Iterator[tuple[str, Tensor]]:
        """Read all tensors in the order of their bytes; see `StoredWeights.stream`."""
        for name, tensor in self._base.stream(into):
            yield name, self._merged(name, tensor) if name in self._steps else tensor

    @torch.no_grad()
    def _merged(self, name: str, tensor: Tensor) -> Tensor:
        merged = tensor.float()
        for adapter, low in self._steps[name]:
            merged = merged + adapter.added(self._component, low)
        return merged
