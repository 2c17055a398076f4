"""Find the weights file of a checkpoint folder; where several could be meant, it is an error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from aigc_models.weights.shard_index import INDEX_SUFFIX, is_index
from aigc_runtime.errors import AigcError, CheckpointError
from aigc_runtime.io.user_file import is_folder, read_file

__all__ = [
    "CONFIG_FILE",
    "GGUF_SUFFIX",
    "INDEX_FILE",
    "STATE_FILE",
    "STATE_JSON",
    "WEIGHTS_FILE",
    "WeightsPlace",
    "find_weights",
    "is_gguf",
    "shipped_checkpoint",
    "unfinished",
]

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
"""Which of several files a tensor of the model is in."""
CONFIG_FILE = "config.json"
STATE_FILE = "training.safetensors"
"""The state of an unfinished training, which lies beside the weights that it had come to."""
STATE_JSON = "training.json"
"""What is said of that state."""
MAX_STATE_JSON_BYTES = 2**20
_SAFETENSORS = ".safetensors"
GGUF_SUFFIX = ".gguf"
_OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".npz", ".onnx")
_FORM = f"a checkpoint is a folder with {WEIGHTS_FILE} and {CONFIG_FILE}: docs/checkpoint.md shows one"


@dataclass(frozen=True, kw_only=True)
class WeightsPlace:
    """The place of the weights.

    Attributes:
        weights: the file, or the index of its shards.
        notes: what lies beside it and is not read.
    """

    weights: Path
    notes: tuple[str, ...] = ()


def is_gguf(path: Path) -> bool:
    """Whether a path is called as GGUF files are, and no folder."""
    return path.name.lower().endswith(GGUF_SUFFIX) and not is_folder(path)


def shipped_checkpoint(name: str) -> Path:
    """Find the folder of a checkpoint that comes with the package."""
    return Path(__file__).parents[1] / "checkpoints" / name


def find_weights(path: Path | str) -> WeightsPlace:
    """Find the weights file of a checkpoint, or the index of its shards: the file itself, or the one of a folder.

    Raises:
        CheckpointError: nothing there, or more than one that could be meant; names them.
    """
    given = Path(path)
    try:
        names = sorted(entry.name for entry in given.iterdir()) if given.is_dir() else None
        there = given.exists()
    except OSError as err:
        raise CheckpointError(
            f"cannot read {str(path)!r}: {err.strerror}", hint="check the path and its permissions"
        ) from err
    if names is None:
        if not there:
            raise CheckpointError(f"no such path: {str(path)!r}", hint=f"check the spelling; {_FORM}")
        _refuse_shard(given)
        return WeightsPlace(weights=given)
    meant = next((name for name in (WEIGHTS_FILE, INDEX_FILE) if name in names), None)
    if meant is None:
        raise _missing(given, names)
    others = [n for n in names if n != meant and (n.endswith(_SAFETENSORS) or is_index(Path(n)))]
    if meant == INDEX_FILE:
        others = [n for n in others if not _is_shard(n)]  # of which the index says which are its own
    others = [n for n in others if n != STATE_FILE]
    if others:
        raise CheckpointError(
            f"checkpoint {str(path)!r} holds {meant} and {', '.join(others)}: which is meant?",
            hint=f"name the file itself ({given / meant}), or move the others away: nothing is merged",
        )
    return WeightsPlace(weights=given / meant, notes=_notes(given, names, meant))


def unfinished(folder: Path) -> tuple[int, int] | None:
    """(step, steps) of the training whose state is in a folder; None where there is none that can be read."""
    try:
        saved = json.loads(read_file(folder / STATE_JSON, limit=MAX_STATE_JSON_BYTES))
        return int(saved["step"]), int(saved["steps"])
    except (AigcError, LookupError, TypeError, ValueError):
        return None


def _is_shard(name: str) -> bool:
    """Whether a file is called as shards are: `model-00001-of-00003.safetensors`."""
    stem, _, count = name.removesuffix(_SAFETENSORS).rpartition("-of-")
    return bool(stem) and count.isdecimal() and stem.rpartition("-")[2].isdecimal()


def _refuse_shard(weights: Path) -> None:
    if _is_shard(weights.name):
        count = int(weights.name.removesuffix(_SAFETENSORS).rpartition("-of-")[2])
        raise CheckpointError(
            f"{str(weights)!r} is one of {count} shards of a model",
            hint=f"name their folder, or their index: {weights.parent / INDEX_FILE}",
        )


def _missing(folder: Path, names: list[str]) -> CheckpointError:
    """Say why a folder is not a checkpoint: what it holds in place of the weights."""
    start = f"checkpoint {str(folder)!r} has no {WEIGHTS_FILE}"
    if "manifest.json" in names:
        return CheckpointError(f"{str(folder)!r} is a bundle, not a checkpoint", hint=_FORM)
    if found := [name for name in names if name.endswith(INDEX_SUFFIX)]:
        return CheckpointError(f"{start}, but {', '.join(found)}", hint=f"name the index: {folder / found[0]}")
    if any(name.endswith(".index.json") for name in names):
        return CheckpointError(
            f"{start}: its weights are in shards of another format, which are not read",
            hint=f"save the whole model as one {WEIGHTS_FILE}, or as shards with {INDEX_FILE}",
        )
    if any(map(_is_shard, names)):
        return CheckpointError(
            f"{start}, and its shards have no {INDEX_FILE}", hint="copy it from where the shards came from"
        )
    if found := [name for name in names if name.endswith(_SAFETENSORS)]:
        return CheckpointError(
            f"{start}, but {', '.join(found)}", hint=f"name the file that is meant: {folder / found[0]}"
        )
    if found := [name for name in names if name.lower().endswith(GGUF_SUFFIX)]:
        return CheckpointError(f"{start}, but GGUF files", hint=f"name the one that is meant: {folder / found[0]}")
    if found := [name for name in names if name.endswith(_OTHER_FORMATS)]:
        return CheckpointError(
            f"{start}, but {', '.join(found)}, which are not read", hint=f"save the weights as {WEIGHTS_FILE}"
        )
    return CheckpointError(start, hint=_FORM)


def _notes(folder: Path, names: list[str], meant: str) -> tuple[str, ...]:
    notes = []
    if ignored := [name for name in names if name.endswith(_OTHER_FORMATS)]:
        notes.append(f"read {meant}; not read: {', '.join(ignored)}")
    if STATE_FILE in names:
        at = f" (stopped at step {state[0]:,} of {state[1]:,})" if (state := unfinished(folder)) is not None else ""
        notes.append(f"this training was not finished{at}: `aigc-export train` goes on from there with --resume")
    return tuple(notes)
