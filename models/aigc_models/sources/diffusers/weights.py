"""The weights of a component of diffusers: which file holds them, and their names here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aigc_models.weights.pickled_weights import PickledWeights
from aigc_models.weights.stored_weights import StoredWeights, WeightsReader
from aigc_models.weights.weights_file import WEIGHTS_FILE, WeightsPlace
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.user_file import is_folder

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FILES", "TRANSFORMERS_FILES", "Renamed", "find_component", "open_component", "our_name"]


def _files(stem: str, pickled: str) -> tuple[str, ...]:
    return (
        f"{stem}.safetensors",
        f"{stem}.safetensors.index.json",
        f"{stem}.fp16.safetensors",
        f"{stem}.safetensors.index.fp16.json",
        f"{pickled}.bin",
        f"{pickled}.fp16.bin",
    )


FILES = (*_files("diffusion_pytorch_model", "diffusion_pytorch_model"), WEIGHTS_FILE)
"""The files that weights are read from, the first that is there counts: full precision first, no code to unpickle;
last the file of a training here.
"""
TRANSFORMERS_FILES = _files("model", "pytorch_model")
"""The same of a component that is of transformers."""

_PICKLED = ".bin"
_ATTENTION = re.compile(r"(attentions\.\d+\.)(query|key|value|proj_attn)\.")
_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of attention weights before diffusers 0.18 -> since."""


def find_component(path: Path, files: tuple[str, ...] = FILES) -> WeightsPlace:
    """Find the weights of a component.

    Args:
        path: its folder, or the file itself.
        files: what they may be called, the first that is there counts.

    Raises:
        CheckpointError: none there; says what is.
    """
    if not is_folder(path):
        return WeightsPlace(weights=path)
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as err:
        raise CheckpointError(
            f"cannot read {str(path)!r}: {err.strerror}", hint="check the path and its permissions"
        ) from err
    meant = next((name for name in files if name in names), None)
    if meant is None:
        stems = tuple({name.partition(".")[0] for name in files})
        others = [name for name in names if name.startswith(stems)]
        raise CheckpointError(
            f"{str(path)!r} has no weights" + (f", but {', '.join(others)}" if others else ""),
            hint=f"one of these is read: {', '.join(files)}",
        )
    ignored = [name for name in files if name in names and name != meant]
    notes = (f"read {meant}; not read: {', '.join(ignored)}",) if ignored else ()
    return WeightsPlace(weights=path / meant, notes=notes)


def open_component(path: Path) -> StoredWeights | PickledWeights:
    """Open a weights file: safetensors, their index, or a pickle of which only tensors are built.

    Raises:
        CheckpointError: it is damaged or foreign.
    """
    return PickledWeights(path) if path.name.endswith(_PICKLED) else StoredWeights(path)


def our_name(name: str) -> str:
    """What a tensor is called here: as in diffusers, but for names that it has since changed itself.

    >>> our_name("down_blocks.1.attentions.0.proj_attn.bias")
    'down_blocks.1.attentions.0.to_out.0.bias'
    """
    return _ATTENTION.sub(lambda found: f"{found[1]}{_ATTENTION_NAMES[found[2]]}.", name)


class Renamed:
    """Weights under our names.

    Args:
        stored: on the disk.
        rename: their name -> ours; None for a tensor that is not read.
    """

    def __init__(self, stored: WeightsReader, rename: Callable[[str], str | None] = our_name) -> None:
        self._stored, self._rename = stored, rename

    def described(self) -> dict[str, Tensor]:
        """Describe every tensor by one of its type and shape without numbers.

        Raises:
            CheckpointError: the old and the new name of one weight are both there.
        """
        found: dict[str, Tensor] = {}
        for name, tensor in self._stored.described().items():
            ours = self._rename(name)
            if ours is None:
                continue
            if ours in found:
                raise CheckpointError(
                    f"the file has {name!r} and another tensor that is {ours!r}, too", hint="is it of one model only?"
                )
            found[ours] = tensor
        return found

    def stream(self, into: Callable[[str], Tensor | None] = lambda _: None) -> Iterator[tuple[str, Tensor]]:
        """Read all tensors; see `StoredWeights.stream`."""

        def place(theirs: str) -> Tensor | None:
            ours = self._rename(theirs)
            return None if ours is None else into(ours)

        for name, tensor in self._stored.stream(place):
            if (ours := self._rename(name)) is not None:
                yield ours, tensor
