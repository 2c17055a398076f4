"""State dicts that `torch.save` wrote, loaded with `weights_only=True`: only tensors and plain values are built."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_models.weights.stored_weights import HashedWeights
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shortened, shown
from aigc_runtime.io.user_file import open_plain

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PICKLED_SUFFIXES", "PickledWeights", "load_pickle"]

PICKLED_SUFFIXES = (".pt", ".pth")
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model")
"""Names under which checkpoints of a training keep the state dict beside the optimizer's."""
AVERAGED = ("params_ema", "G_ema", "params")
"""BasicSR's and StyleGAN's names: weights averaged over the training, which are meant where they are there, and the
last ones."""
_CHUNK = 1 << 20


class PickledWeights(HashedWeights):
    """The tensors of a file that `torch.save` wrote.

    Args:
        path: of the file.

    Attributes:
        notes: for the user.

    Raises:
        CheckpointError: the file is damaged, holds objects that only code could build, or no state dict.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: tuple[str, ...] = ()
        self._tensors = self._state(load_pickle(path))
        self._sha256 = ""

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        if not self._sha256:
            digest = hashlib.sha256()
            with os.fdopen(open_plain(self.path, error=CheckpointError), "rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def described(self) -> dict[str, Tensor]:
        """Describe every tensor by one of its type and shape without numbers."""
        return {name: tensor.to("meta") for name, tensor in self._tensors.items()}

    def stream(self, into: Callable[[str], Tensor | None] = lambda _: None) -> Iterator[tuple[str, Tensor]]:
        """Give all tensors; see `StoredWeights.stream`."""
        yield from self._tensors.items()

    def _state(self, found: Any) -> dict[str, Tensor]:
        import torch

        what = str(self.path)
        if isinstance(found, Mapping) and not any(isinstance(value, torch.Tensor) for value in found.values()):
            inner = [name for name in AVERAGED if isinstance(found.get(name), Mapping)][:1]
            inner = inner or [name for name in WRAPPERS if isinstance(found.get(name), Mapping)]
            if len(inner) == 1:
                others = ", ".join(str(name) for name in found if name != inner[0])
                self.notes = (f"read {inner[0]!r} of {self.path.name}; not read: {others}",) if others else ()
                found = found[inner[0]]
        if not isinstance(found, Mapping) or not found:
            raise CheckpointError(
                f"{what!r} holds {_described(found)}, expected a state dict",
                hint="save one: torch.save(model.state_dict(), 'model.pt')",
            )
        for name, value in found.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                raise CheckpointError(
                    f"{what!r} holds {_described(value)} as {shown(name)}, expected tensors by name",
                    hint="save one: torch.save(model.state_dict(), 'model.pt')",
                )
            if value.layout != torch.strided or value.is_quantized:
                raise CheckpointError(
                    f"{what!r}: tensor {name!r} is sparse or quantized, which is not read", hint="save float weights"
                )
        return {str(name): value.detach() for name, value in found.items()}


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(repr, list(value)[:5])) or 'nothing'}"
    return f"a {type(value).__name__}"


def load_pickle(path: Path) -> Any:
    """Load a file that `torch.save` wrote; of what a pickle may hold, only tensors and plain values are built.

    Raises:
        CheckpointError: the file is damaged, or holds objects that only code could build.
    """
    import pickle

    import torch

    with os.fdopen(open_plain(path, error=CheckpointError), "rb") as file:
        start = file.read(2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of older forms of pickle, which are read or refused
            # A zip is mapped, so that no tensor is read before it is used.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True if start == b"PK" else None)
    except pickle.UnpicklingError as err:
        raise CheckpointError(
            f"{str(path)!r} holds more than tensors, which could run code when loaded: {_reason(err)}",
            hint="nothing of it was run. Where you trust it, save its tensors alone: "
            "torch.save(torch.load(path, weights_only=False).state_dict(), 'model.pt'); of a StyleGAN's pickle: "
            "torch.save(pickle.load(open(path, 'rb'))['G_ema'].state_dict(), 'model.pt')",
        ) from err
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OSError) as err:
        raise CheckpointError(
            f"{str(path)!r} is damaged, or was not written by torch.save: {_reason(err)}", hint="get it again"
        ) from err


def _reason(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    told = next(
        (line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0] if lines else type(err).__name__
    )
    return shortened(told)
