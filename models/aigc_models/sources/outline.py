"""What is known of a model before its weights are read: from config.json and the headers of the weights alone."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aigc_models.families.lm_config import LMConfig
from aigc_models.families.lm_shapes import EMBEDDING, HEAD, count_parameters, weight_shapes
from aigc_models.weights.safetensors_file import StoredTensor
from aigc_runtime.errors import CheckpointError

if TYPE_CHECKING:
    from aigc_models.text_assets import TextAssets

__all__ = ["Outline", "check_weights", "stored_bytes"]


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What a source says of a model before it loads it. Nothing in it took reading a weight, or PyTorch.

    Attributes:
        kind: of the pipeline that drives it; empty where that is not known before the model is made.
        architecture: as those who wrote it call it.
        family: by which it is read.
        parameters: how many numbers are trained, what is tied once; None where they are not known.
        stored: type of the numbers on the disk -> their bytes.
        config: of a language model.
        text: its tokenizer and what belongs to it.
        notes: for the user.
        several_parts: whether it is known that it becomes several graphs.
    """

    kind: str = ""
    architecture: str = ""
    family: str = ""
    parameters: int | None = None
    stored: Mapping[str, int] = field(default_factory=dict)
    config: LMConfig | None = None
    text: TextAssets | None = None
    notes: tuple[str, ...] = ()
    several_parts: bool = False


def stored_bytes(tensors: Iterable[tuple[str, StoredTensor]]) -> dict[str, int]:
    """Sum the bytes of each type, that with the most first."""
    found: dict[str, int] = {}
    for _, stored in tensors:
        found[stored.type_name] = found.get(stored.type_name, 0) + stored.last - stored.first
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def check_weights(
    tensors: Iterable[tuple[str, tuple[int, ...]]],
    config: LMConfig,
    *,
    source: str,
    names: Callable[[str], tuple[str, ...]] = lambda name: (name,),
) -> int:
    """Check that a file holds the weights that a configuration describes, as loading will, and count them.

    Args:
        tensors: (name, shape) of the file.
        config: of the model.
        source: what holds them, for messages.
        names: what a tensor's parts are called here; empty for one that is no weight.

    Returns:
        The number of parameters, what is tied once.

    Raises:
        CheckpointError: names a tensor that is missing, is not known, is there twice or has another size.
    """
    expected = weight_shapes(config)
    found: dict[str, str] = {}
    for name, shape in tensors:
        ours = names(name)
        for one in ours:
            if one not in expected:
                raise CheckpointError(
                    f"{source} has a tensor {name!r} that the model does not have",
                    hint=f"{_nearest(one, expected.keys() - found.keys(), 'model')}{_FOREIGN}",
                )
            if one in found:
                raise CheckpointError(
                    f"{source} has {found[one]!r} and {name!r}, which are one weight of the model",
                    hint="is it of one model only?",
                )
            found[one] = name
        wanted = sum(math.prod(expected[one]) for one in ours)
        if ours and (wanted != math.prod(shape) or (len(ours) == 1 and sorted(expected[ours[0]]) != sorted(shape))):
            whole = list(expected[ours[0]]) if len(ours) == 1 else f"{wanted:,} numbers"
            raise CheckpointError(f"{source}: tensor {name!r} has shape {list(shape)}, expected {whole}", hint=_FOREIGN)
    tied = {EMBEDDING, HEAD} if config.tie_embeddings and found.keys() & {EMBEDDING, HEAD} else set()
    missing = [one for one in expected if one not in found and one not in tied]
    if missing:
        hint = f"{_nearest(missing[0], found.keys() - expected.keys(), 'file')}is this a checkpoint of another model?"
        if missing[0] == HEAD and EMBEDDING in found:
            hint = "where the output layer is the embedding, config.json says so by tying them"
        raise CheckpointError(f"{source} lacks tensor {missing[0]!r} of shape {list(expected[missing[0]])}", hint=hint)
    return sum(count_parameters(config).values())


_FOREIGN = "does config.json belong to these weights?"


def _nearest(name: str, names: Iterable[str], of: str) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"nearest in the {of}: {near[0]!r}; " if near else ""
