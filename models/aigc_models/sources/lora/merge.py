"""Weights with adapters merged into them, one tensor at a time while it is read.

    W' = W + s B A                                            (Hu et al. 2021, eq. 3)
    W' = m (W + s B A) / ||W + s B A||, of each row           (Liu et al. 2024, "DoRA", eq. 5)

A product is formed under the names and in the shape of the adapter's own library, and then cut, ordered and turned as
the family's rules do with the weights themselves: so a fused projection needs no case of its own. All is float32.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.lora.adapter import Adapter, LowRank
from aigc_models.sources.transformers.family import Family
from aigc_models.sources.transformers.rename import RenamedWeights, Rule
from aigc_models.weights.stored_weights import WeightsReader
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["MergedWeights"]

_TIED = ("embed_tokens.weight", "lm_head.weight")
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What an adapter does to a tensor of ours.

    Attributes:
        adapter: which one.
        name: of the module, or of the tensor that comes whole, in the adapter's library.
        part: which of the tensors that the family's rule makes of it is ours.
        low: the module's matrices; None for a tensor that comes whole.
    """

    adapter: Adapter
    name: str
    part: int
    low: LowRank | None


class _One(dict[str, Tensor]):
    """A single tensor, as a reader of weights."""

    def described(self) -> dict[str, Tensor]:
        return {name: tensor.to("meta") for name, tensor in self.items()}

    def stream(self, into: Callable[[str], Tensor | None] = lambda _: None) -> Iterator[tuple[str, Tensor]]:
        yield from self.items()


class MergedWeights:
    """Weights of a model, adapters merged into them in their order.

    Args:
        base: under our names.
        adapters: opened.
        family: of the model, whose names the adapters have.
        config: of the model.
        source: what holds the base, for messages.

    Raises:
        CheckpointError: an adapter for another model: names what the model does not have, or of which shape it is.
    """

    def __init__(
        self, base: WeightsReader, adapters: Sequence[Adapter], *, family: Family, config: LMConfig, source: str
    ) -> None:
        self._base, self._family, self._config = base, family, config
        self._described = base.described()
        self._steps: dict[str, list[_Step]] = {}
        for adapter in adapters:
            self._plan(adapter, source)

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
        merged = tensor.to(torch.float32)
        for step in self._steps[name]:
            adapter, low = step.adapter, step.low
            if low is None:
                merged = self._parts(step.name, adapter.read(adapter.replaced[step.name]))[step.part][1].float()
                continue
            product = adapter.read(low.b) @ adapter.read(low.a)
            added = self._part(step, product * adapter.scaling(step.name))
            merged = merged + added
            if low.magnitude:
                wanted = adapter.read(low.magnitude).view(-1, 1).expand(product.shape)
                rows = self._part(step, wanted)[:, :1]
                merged = merged * (rows / torch.linalg.norm(merged, dim=1, keepdim=True))
        return merged

    def _part(self, step: _Step, product: Tensor) -> Tensor:
        """Our part of what has a module's shape, [outputs, inputs], or of an embedding [D, V]."""
        assert step.low is not None
        return self._parts(f"{step.name}.weight", self._stored(step.name, step.low, product))[step.part][1]

    def _stored(self, module: str, low: LowRank, product: Tensor) -> Tensor:
        """A product in the shape that the module's weight has in the adapter's library."""
        turned = low.embedding or module.endswith(tuple(f".{name}" for name in self._family.inputs_first))
        return product.t() if turned else product

    def _only_ours(self, name: str) -> bool:
        """Whether a name is ours alone: the family's own tensor, of which it is a part, is called otherwise."""
        bare, rules = name.removeprefix(self._family.prefix), self._family.rules
        if any(_is_of(rule.theirs, bare) for rule in rules):
            return False
        return any(_is_of(ours, bare) for rule in rules for ours in rule.ours)

    def _parts(self, name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
        """What the family's rules make of a tensor: our names, and the parts."""
        renamed = RenamedWeights(
            _One({name: tensor}), self._family.rules, prefix=self._family.prefix, config=self._config
        )
        return list(renamed.stream())

    def _plan(self, adapter: Adapter, source: str) -> None:
        """Find out which of our tensors an adapter changes, and how."""
        unknown: list[str] = []
        for name, stored in adapter.replaced.items():  # first: what is added is added to them
            self._add(adapter, name, torch.empty(adapter.shape(stored), device="meta"), None, unknown)
        for module, low in adapter.modules.items():
            outputs, inputs = adapter.shape(low.b)[0], adapter.shape(low.a)[1]
            product = self._stored(module, low, torch.empty(outputs, inputs, device="meta"))
            self._add(adapter, f"{module}.weight", product, low, unknown)
        if unknown:
            more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
            near = difflib.get_close_matches(unknown[0], [*self._described], n=1, cutoff=0.3)
            raise CheckpointError(
                f"the adapter {adapter.where!r} changes {', '.join(map(shown, unknown[:_SHOWN]))}{more}, which the "
                f"model of {source!r} does not have",
                hint=_made_for(adapter) + (f"; nearest here: {near[0]!r}" if near else ""),
            )

    def _add(self, adapter: Adapter, name: str, tensor: Tensor, low: LowRank | None, unknown: list[str]) -> None:
        try:
            parts = self._parts(name, tensor)
        except CheckpointError as err:
            raise CheckpointError(f"the adapter {adapter.where!r}: {err.message}", hint=_made_for(adapter)) from err
        for ours, _ in parts:
            if self._config.tie_embeddings and ours in _TIED:
                raise CheckpointError(
                    f"the adapter {adapter.where!r} changes {name!r}, which this model also uses as "
                    f"{next(other for other in _TIED if other != ours)!r}",
                    hint="merge it with peft: merge_and_unload(), and export the merged folder",
                )
        if not parts or any(ours not in self._described for ours, _ in parts) or self._only_ours(name):
            unknown.append(name.removesuffix(".weight"))
            return
        for number, (ours, part) in enumerate(parts):
            base = self._described[ours].shape
            if part.shape != base:
                raise CheckpointError(
                    f"the adapter {adapter.where!r} changes {name.removesuffix('.weight')!r} as one of "
                    f"{list(part.shape)}, the model's is of {list(base)}",
                    hint=_made_for(adapter),
                )
            key = name.removesuffix(".weight") if low is not None else name
            self._steps.setdefault(ours, []).append(_Step(adapter=adapter, name=key, part=number, low=low))


def _is_of(pattern: str, name: str) -> bool:
    return Rule(theirs=pattern, ours=()).match(name) is not None


def _made_for(adapter: Adapter) -> str:
    named = f": it was made for {shown(adapter.config.base)}" if adapter.config.base else ""
    return f"it is an adapter of another model{named}"
