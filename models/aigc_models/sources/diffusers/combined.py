"""The weights of several files as those of one model: `unet.conv_in.weight`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from aigc_models.weights.stored_weights import HashedWeights

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CombinedWeights"]


class CombinedWeights(HashedWeights):
    """The tensors of several components, each under the component's name and a dot.

    Args:
        components: name -> its tensors.
    """

    def __init__(self, components: Mapping[str, HashedWeights]) -> None:
        self._components = dict(components)

    def __getitem__(self, name: str) -> Tensor:
        component, _, inner = name.partition(".")
        return self._components[component][inner]

    def __iter__(self) -> Iterator[str]:
        return (f"{component}.{name}" for component, tensors in self._components.items() for name in tensors)

    def __len__(self) -> int:
        return sum(map(len, self._components.values()))

    @property
    def sha256(self) -> str:
        """SHA-256 of a line for each component: its digest and its name, as `sha256sum` prints them."""
        lines = "".join(f"{tensors.sha256}  {name}\n" for name, tensors in self._components.items())
        return hashlib.sha256(lines.encode()).hexdigest()

    def described(self) -> dict[str, Tensor]:
        """Describe every tensor by one of its type and shape without numbers."""
        return {
            f"{component}.{name}": tensor
            for component, tensors in self._components.items()
            for name, tensor in tensors.described().items()
        }

    def stream(self, into: Callable[[str], Tensor | None] = lambda _: None) -> Iterator[tuple[str, Tensor]]:
        """Read all tensors; see `StoredWeights.stream`."""
        for component, tensors in self._components.items():
            prefix = f"{component}."
            for name, tensor in tensors.stream(lambda inner, prefix=prefix: into(prefix + inner)):  # type: ignore[misc]
                yield prefix + name, tensor
