"""Find the weights file of a checkpoint folder; where several could be meant, it is an error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from aigc_runtime.errors import AigcError, CheckpointError
from aigc_runtime.io.user_file import read_file

__all__ = ["CONFIG_FILE", "STATE_FILE", "STATE_JSON", "WEIGHTS_FILE", "WeightsPlace", "find_weights", "unfinished"]

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
STATE_FILE = "training.safetensors"
"""The state of an unfinished training, which lies beside the weights that it had come to."""
STATE_JSON = "training.json"
"""What is said of that state."""
MAX_STATE_JSON_BYTES = 2**20
_SAFETENSORS = ".safetensors"
_OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".npz", ".onnx")
_FORM = f"a checkpoint is a folder with {WEIGHTS_FILE} and {CONFIG_FILE}: docs/checkpoint.md shows one"


@dataclass(frozen=True, kw_only=True)
class WeightsPlace:
    """The place of the weights.

    Attributes:
        weights: the file.
        notes: what lies beside it and is not read.
    """

    weights: Path
    notes: tuple[str, ...] = ()


def find_weights(path: Path | str) -> WeightsPlace:
    """Find the weights file of a checkpoint: the file itself, or the one of a folder.

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
    if WEIGHTS_FILE not in names:
        raise _missing(given, names)
    index = [name for name in names if name.endswith(f"{_SAFETENSORS}.index.json")]
    others = [n for n in names if n.endswith(_SAFETENSORS) and n not in (WEIGHTS_FILE, STATE_FILE)]
    if index or others:
        raise CheckpointError(
            f"checkpoint {str(path)!r} holds {WEIGHTS_FILE} and {', '.join([*index, *others])}: which is meant?",
            hint=f"name the file itself ({given / WEIGHTS_FILE}), or move the others away: nothing is merged",
        )
    return WeightsPlace(weights=given / WEIGHTS_FILE, notes=_notes(given, names))


def unfinished(folder: Path) -> tuple[int, int] | None:
    """(step, steps) of the training whose state is in a folder; None where there is none that can be read."""
    try:
        saved = json.loads(read_file(folder / STATE_JSON, limit=MAX_STATE_JSON_BYTES))
        return int(saved["step"]), int(saved["steps"])
    except (AigcError, LookupError, TypeError, ValueError):
        return None


def _refuse_shard(weights: Path) -> None:
    stem, _, count = weights.name.removesuffix(_SAFETENSORS).rpartition("-of-")
    if stem and count.isdecimal() and stem.rpartition("-")[2].isdecimal():
        raise CheckpointError(
            f"{str(weights)!r} is one of {int(count)} shards of a model, which are not read",
            hint=f"save the whole model as one {WEIGHTS_FILE}",
        )


def _missing(folder: Path, names: list[str]) -> CheckpointError:
    """Say why a folder is not a checkpoint: what it holds in place of the weights."""
    start = f"checkpoint {str(folder)!r} has no {WEIGHTS_FILE}"
    if "manifest.json" in names:
        return CheckpointError(f"{str(folder)!r} is a bundle, not a checkpoint", hint=_FORM)
    if any(name.endswith(".index.json") for name in names):
        return CheckpointError(
            f"{start}: its weights are in shards, which are not read",
            hint=f"save the whole model as one {WEIGHTS_FILE}",
        )
    if found := [name for name in names if name.endswith(_SAFETENSORS)]:
        return CheckpointError(
            f"{start}, but {', '.join(found)}", hint=f"name the file that is meant: {folder / found[0]}"
        )
    if found := [name for name in names if name.endswith(_OTHER_FORMATS)]:
        return CheckpointError(
            f"{start}, but {', '.join(found)}, which are not read", hint=f"save the weights as {WEIGHTS_FILE}"
        )
    return CheckpointError(start, hint=_FORM)


def _notes(folder: Path, names: list[str]) -> tuple[str, ...]:
    notes = []
    if ignored := [name for name in names if name.endswith(_OTHER_FORMATS)]:
        notes.append(f"read {WEIGHTS_FILE}; not read: {', '.join(ignored)}")
    if STATE_FILE in names:
        at = f" (stopped at step {state[0]:,} of {state[1]:,})" if (state := unfinished(folder)) is not None else ""
        notes.append(f"this training was not finished{at}: `aigc-export train` goes on from there with --resume")
    return tuple(notes)
