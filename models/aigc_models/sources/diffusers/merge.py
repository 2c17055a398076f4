"""Weights of a component with adapters merged into them, one tensor at a time while it is read.

W' = W + s (alpha / r) B A                                 (Hu et al. 2021, eq. 3)
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from aigc_models.sources.diffusers.adapter import PARTIAL, DiffusionAdapter, LowRank, some
from aigc_models.sources.diffusers.sgm_names import sgm_names
from aigc_models.weights.stored_weights import WeightsReader
from aigc_runtime.errors import AdapterError

__all__ = ["MergedWeights", "check_adapters", "merge_notes"]


def check_adapters(adapters: Sequence[DiffusionAdapter], components: Collection[str]) -> None:
    """Refuse adapters that change components which a pipeline does not have, unless a part of them is enough.

    Args:
        adapters: opened.
        components: of the pipeline, those that an adapter may change.

    Raises:
        AdapterError: names the adapter and the component.
    """
    for adapter in adapters:
        unknown = sorted(adapter.modules.keys() - set(components))
        if unknown and not adapter.partial:
            raise AdapterError(
                f"the adapter {adapter.where!r} changes a {unknown[0]}, which the pipeline does not have",
                hint=f"it is an adapter of another model; {PARTIAL}",
            )


def merge_notes(adapters: Sequence[DiffusionAdapter], merged: Mapping[str, MergedWeights]) -> tuple[str, ...]:
    """Say of each adapter what was merged, and what of it was not.

    Args:
        adapters: opened.
        merged: component -> its weights with the adapters in them.

    Raises:
        AdapterError: one of which nothing was merged.
    """
    notes = []
    for adapter in adapters:
        left = list(adapter.unknown)
        for component, modules in adapter.modules.items():
            left += merged[component].skipped[adapter.where] if component in merged else modules
        count = sum(map(len, adapter.modules.values())) - (len(left) - len(adapter.unknown))
        if not count:
            raise AdapterError(
                f"the adapter {adapter.where!r} changes nothing that the model has, but {some(left)}",
                hint="it is an adapter of another model",
            )
        times = f", times {adapter.request.scale:g}" if adapter.request.scale != 1.0 else ""
        notes.append(f"merged the adapter {adapter.where!r} into {count} modules{times}")
        if left:
            notes.append(f"not merged of {adapter.where!r}: {some(left)}")
    return tuple(notes)


class MergedWeights:
    """Weights under our names, adapters merged into them in their order.

    Args:
        base: of the component.
        component: `unet`, `text_encoder` or `text_encoder_2`.
        adapters: opened.

    Raises:
        AdapterError: an adapter for another model: names what the model does not have, or has in another shape.
    """

    def __init__(self, base: WeightsReader, component: str, adapters: Sequence[DiffusionAdapter]) -> None:
        self._base, self._component = base, component
        self._described = base.described()
        self._steps: dict[str, list[tuple[DiffusionAdapter, LowRank]]] = {}
        modules = [name.removesuffix(".weight") for name in self._described if name.endswith(".weight")]
        # kohya's names have no dots, and no two modules are one without them.
        others = {**sgm_names(modules), **{name: name for name in modules}}
        known = {
            **{other.replace(".", "_"): name for other, name in others.items()},
            **{name: name for name in modules},
        }
        self.skipped: dict[str, list[str]] = {}
        """Path of an adapter -> its modules that the component does not have."""
        for adapter in adapters:
            self._plan(adapter, known)

    def _plan(self, adapter: DiffusionAdapter, known: dict[str, str]) -> None:
        given = adapter.modules.get(self._component, {})
        unknown = [module for module in given if module not in known]
        if unknown and not adapter.partial:
            near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.3)
            raise AdapterError(
                f"the adapter {adapter.where!r} changes {some(unknown)}, which the {self._component} does not have",
                hint="it is an adapter of another model"
                + (f"; nearest here: {near[0]!r}" if near else "")
                + f"; {PARTIAL}",
            )
        self.skipped[adapter.where] = unknown
        given = {module: low for module, low in given.items() if module in known}
        for module, low in given.items():
            name = f"{known[module]}.weight"
            wanted, found = tuple(self._described[name].shape), adapter.shape(low)
            if found != wanted:
                raise AdapterError(
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
