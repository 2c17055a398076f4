"""The one file of a state dict, and its tensors, whichever of the known formats it has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aigc_models.weights.pickled_weights import PICKLED_SUFFIXES, PickledWeights
from aigc_models.weights.stored_weights import StoredWeights
from aigc_models.weights.weights_file import STATE_FILE
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.user_file import is_folder

__all__ = ["SAFETENSORS", "file_shapes", "open_state_dict", "state_dict_file"]

SAFETENSORS = ".safetensors"


def state_dict_file(path: Path) -> Path:
    """Find the file itself, or the only one of a folder.

    Raises:
        CheckpointError: it is no weights file, or a folder does not hold exactly one.
    """
    known = (SAFETENSORS, *PICKLED_SUFFIXES)
    if not is_folder(path):
        if not path.name.endswith(known):
            raise CheckpointError(f"{str(path)!r} is no weights file", hint=f"known: {', '.join(known)}")
        return path
    try:
        found = sorted(entry for entry in path.iterdir() if entry.name.endswith(known) and entry.name != STATE_FILE)
    except OSError as err:
        raise CheckpointError(
            f"cannot read {str(path)!r}: {err.strerror}", hint="check the path and its permissions"
        ) from err
    if len(found) != 1:
        names = ", ".join(entry.name for entry in found) or f"no {', '.join(known)}"
        raise CheckpointError(
            f"{str(path)!r} holds {names}, expected one file of weights", hint="name the file that is meant"
        )
    return found[0]


def open_state_dict(file: Path) -> StoredWeights | PickledWeights:
    """Open a file by its ending; no tensor is read before it is used, and nothing is run.

    Raises:
        CheckpointError: it is damaged, holds what only code could build, or no state dict.
    """
    return PickledWeights(file) if file.name.endswith(PICKLED_SUFFIXES) else StoredWeights(file)


def file_shapes(weights: StoredWeights | PickledWeights) -> Mapping[str, tuple[int, ...]]:
    """Map every tensor's name to its shape; of safetensors without PyTorch."""
    if isinstance(weights, StoredWeights):
        return {name: stored.shape for name, stored in weights.headers}
    return {name: tuple(tensor.shape) for name, tensor in weights.described().items()}
