"""Checkpoints in shards, written for the tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

INDEX = "model.safetensors.index.json"


def shard_name(number: int, count: int) -> str:
    return f"model-{number + 1:05}-of-{count:05}.safetensors"


def write_shards(folder: Path, shards: Sequence[Mapping[str, Tensor]], config: Mapping[str, Any] | None = None) -> Path:
    """Write shards, their index and config.json as transformers does; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [shard_name(i, len(shards)) for i in range(len(shards))]
    for name, tensors in zip(names, shards, strict=True):
        (folder / name).write_bytes(save({k: t.contiguous().clone() for k, t in tensors.items()}))
    index = {
        "metadata": {"total_size": sum(t.nbytes for tensors in shards for t in tensors.values())},
        "weight_map": {key: name for name, tensors in zip(names, shards, strict=True) for key in tensors},
    }
    (folder / INDEX).write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(dict(config or {})))
    return folder


def edit_index(folder: Path, **places: str | None) -> None:
    """Place tensors elsewhere in the index; None removes one. A dot in a name is written as two underscores."""
    index = json.loads((folder / INDEX).read_text())
    for name, place in places.items():
        key = name.replace("__", ".")
        if place is None:
            del index["weight_map"][key]
        else:
            index["weight_map"][key] = place
    (folder / INDEX).write_text(json.dumps(index))
