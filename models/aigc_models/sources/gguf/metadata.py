"""What a GGUF file says of its architecture, as fields that must all be read."""

from __future__ import annotations

from typing import Any

import numpy as np

from aigc_models.sources.transformers.fields import Fields
from aigc_models.weights.gguf_file import GgufFile
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["ARCHITECTURE", "Metadata"]

ARCHITECTURE = "general.architecture"
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


class Metadata:
    """The values of a file's architecture, and what its tensors say beside them.

    Args:
        file: opened.

    Attributes:
        file: the same.
        architecture: as the format calls it, such as `llama`.
        fields: its values, without the architecture in front of their keys.

    Raises:
        CheckpointError: no architecture, one of several parts of a model, an adapter, or no token embedding.
    """

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        values = file.metadata
        what = str(file.path)
        if (kind := values.get("general.type", "model")) != "model":
            raise CheckpointError(
                f"{what!r} is a GGUF file of type {shown(kind)}, not of a model", hint="name the file of the model"
            )
        if (parts := values.get("split.count", 1)) not in (0, 1):
            raise CheckpointError(
                f"{what!r} is one of {shown(parts)} parts of a model",
                hint="join them: llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf",
            )
        architecture = values.get(ARCHITECTURE)
        if not isinstance(architecture, str) or not architecture:
            raise CheckpointError(f"{what!r}: {ARCHITECTURE} is {shown(architecture)}", hint="get the file again")
        self.architecture = architecture
        if EMBEDDING not in file.tensors:
            raise CheckpointError(
                f"{what!r} has no tensor {EMBEDDING!r}: it is not a whole language model", hint="get the file again"
            )
        prefix = f"{architecture}."
        own = {key.removeprefix(prefix): _plain(value) for key, value in values.items() if key.startswith(prefix)}
        self.fields = Fields(own, where=f"{file.path.name}: {architecture}")

    @property
    def tied(self) -> bool:
        """Whether the output layer is the token embedding."""
        return OUTPUT not in self.file.tensors

    @property
    def vocab_size(self) -> int:
        """Rows of the token embedding.

        Raises:
            CheckpointError: the file states another size.
        """
        rows = self.file.tensors[EMBEDDING].shape[0]
        stated = self.fields.maybe_integer("vocab_size")
        if stated not in (None, rows):
            raise CheckpointError(
                f"{str(self.file.path)!r}: vocab_size is {stated:,}, but {EMBEDDING!r} has {rows:,} rows",
                hint="the file is damaged: get it again",
            )
        return rows

    def has(self, tensor: str) -> bool:
        """Whether there is a tensor of that name."""
        return tensor in self.file.tensors

    def numbers(self, tensor: str) -> list[float] | None:
        """Read a small tensor that is no weight; None where there is none."""
        if not self.has(tensor):
            return None
        shape = self.file.tensors[tensor].shape
        if len(shape) != 1 or shape[0] > _MAX_NUMBERS:
            raise CheckpointError(
                f"{str(self.file.path)!r}: tensor {tensor!r} has the shape {list(shape)}",
                hint="the file is damaged: get it again",
            )
        read: list[float] = self.file[tensor].float().tolist()
        return read


_MAX_NUMBERS = 2**16


def _plain(value: Any) -> Any:
    """A value without numpy; a list of one number that is repeated for every layer is that number."""
    values = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(values, list) and values and type(values[0]) in (int, float):
        return values[0] if all(entry == values[0] for entry in values) else values
    return values
