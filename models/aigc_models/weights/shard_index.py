"""The index of a model in several files: which tensor lies in which shard (huggingface/transformers' format)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_models.weights.safetensors_file import TensorsFile, open_tensors_file
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.strict_json import loads_strict
from aigc_runtime.io.user_file import path_exists, read_file

__all__ = ["INDEX_SUFFIX", "ShardedFiles", "is_index", "open_shards"]

SAFETENSORS = ".safetensors"
INDEX_SUFFIX = f"{SAFETENSORS}.index.json"
_VARIANT = re.compile(r"\.safetensors\.index\.\w+\.json$")
"""Of an index of other numbers than usual: `model.safetensors.index.fp16.json`."""
MAX_INDEX_BYTES = 100 * 1024 * 1024
_SHOWN = 3
"""Names in a message."""
_HINT = "the index is damaged, or is that of another model: get the whole folder again"


@dataclass(frozen=True, kw_only=True)
class ShardedFiles:
    """A model in shards, opened and checked.

    Attributes:
        index: the bytes of the index.
        files: the shards, by name.
        notes: for the user.
    """

    index: bytes
    files: tuple[TensorsFile, ...]
    notes: tuple[str, ...] = ()


def is_index(path: Path) -> bool:
    """Whether a path is called as an index of shards is."""
    return path.name.endswith(INDEX_SUFFIX) or _VARIANT.search(path.name) is not None


def open_shards(path: Path) -> ShardedFiles:
    """Open all shards that an index names, which lie beside it, and check that index and shards say the same.

    Args:
        path: of the index.

    Raises:
        CheckpointError: an index that names no tensors, files elsewhere or files that are not there; a shard that is
            damaged; a tensor that is not where the index says, or that is in two shards. Names the tensor and the file.
    """
    raw = read_file(path, limit=MAX_INDEX_BYTES, error=CheckpointError)
    index = loads_strict(raw, what=str(path), error=CheckpointError)
    places = _places(index, path)
    names = sorted(set(places.values()))
    if missing := [name for name in names if not path_exists(path.parent / name)]:
        raise CheckpointError(
            f"{str(path)!r} names {len(names)} shards, of which {len(missing)} are not there: {_some(missing)}",
            hint="copy them from where the others came from",
        )
    files = tuple(open_tensors_file(path.parent / name) for name in names)
    _check_same(places, files, path)
    return ShardedFiles(index=raw, files=files, notes=(*_other_files(path, names), *_wrong_total(index, files, path)))


def _places(index: Any, path: Path) -> dict[str, str]:
    """Read tensor -> file name; a file lies in the folder of the index."""
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{str(path)!r} has no weight_map of tensors to file names", hint=_HINT)
    for tensor, name in places.items():
        plain = name.removesuffix(SAFETENSORS)
        if plain == name or not plain or set(name) & set("/\\:\0") or name.startswith("."):
            raise CheckpointError(
                f"{str(path)!r} places tensor {tensor!r} in {name!r}, which is no {SAFETENSORS} file of its folder",
                hint="files elsewhere are not read: where they are meant, put them, or links to them, into the folder",
            )
    return places


def _check_same(places: dict[str, str], files: tuple[TensorsFile, ...], path: Path) -> None:
    """Check that every tensor lies in one shard, and that it is the one that the index names."""
    found: dict[str, str] = {}
    for file in files:
        for tensor in file.tensors:
            if tensor in found:
                raise CheckpointError(
                    f"tensor {tensor!r} is in two shards, {found[tensor]!r} and {file.path.name!r}",
                    hint="the shards are those of two models, or of two ways to split one: get the whole folder again",
                )
            found[tensor] = file.path.name
    for tensor, name in places.items():
        if tensor not in found:
            raise CheckpointError(f"{str(path)!r} places tensor {tensor!r} in {name!r}, which lacks it", hint=_HINT)
        if found[tensor] != name:
            raise CheckpointError(
                f"{str(path)!r} places tensor {tensor!r} in {name!r}, but it is in {found[tensor]!r}", hint=_HINT
            )
    if unnamed := sorted(found.keys() - places.keys()):
        raise CheckpointError(
            f"{str(path)!r} does not name {len(unnamed)} tensors of its shards: {_some(unnamed)}", hint=_HINT
        )


def _other_files(path: Path, names: list[str]) -> tuple[str, ...]:
    """Say which further shards lie there, such as those of another way to split the model."""
    others = sorted(found.name for found in path.parent.glob(f"*-of-*{SAFETENSORS}") if found.name not in names)
    return (f"{path.name} does not name {_some(others)}: not read",) if others else ()


def _wrong_total(index: dict[str, Any], files: tuple[TensorsFile, ...], path: Path) -> tuple[str, ...]:
    """Say where the total of the index is another than that of the shards: some tools write it wrong."""
    metadata = index.get("metadata")
    given = metadata.get("total_size") if isinstance(metadata, dict) else None
    held = sum(stored.last - stored.first for file in files for stored in file.tensors.values())
    if given is None or given == held:
        return ()
    return (f"{path.name} says that all tensors have {given!r} bytes, those of its shards have {held}",)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(map(repr, names[:_SHOWN]))}{more}"
