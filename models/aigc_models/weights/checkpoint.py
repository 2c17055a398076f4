"""Checkpoints: `model.safetensors` and `config.json` in a folder, written whole or not at all, read with suspicion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_models.data.kept_data import KeptData, read_kept
from aigc_models.weights.stored_weights import HashedWeights, StoredWeights
from aigc_models.weights.weights_file import CONFIG_FILE, WEIGHTS_FILE, find_weights, shipped_checkpoint
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.publish import atomic_directory
from aigc_runtime.io.strict_json import loads_strict
from aigc_runtime.io.user_file import path_exists, read_file

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "Checkpoint",
    "load_checkpoint",
    "save_checkpoint",
    "shipped_checkpoint",
]

MAX_CONFIG_BYTES = 1024 * 1024
_CONFIG_DIGEST = "config_sha256"
"""Where the weights' own file says which config.json they were written with."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The content of a checkpoint folder.

    Attributes:
        config: the content of config.json.
        tensors: read where they are asked for: nothing of them is kept in memory.
        path: of the weights file, or of the index of its shards.
        notes: for the user: files beside it that were not read, a config.json that was edited.
        data: what the folder keeps of the data that it was trained on; None where it keeps nothing.
        held_out: text that training did not see, in pieces; empty where none is kept.
        calibration: text that it did see, likewise.
        adapters: what was merged into the weights: as it was named, and its SHA-256.
    """

    config: dict[str, Any]
    tensors: HashedWeights
    path: Path
    notes: tuple[str, ...] = ()
    data: KeptData | None = None
    held_out: tuple[bytes, ...] = ()
    calibration: tuple[bytes, ...] = ()
    adapters: tuple[tuple[str, str], ...] = ()

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights file; of shards as in `StoredWeights.sha256`; with adapters of all their digests."""
        if not self.adapters:
            return self.tensors.sha256
        lines = "".join(f"{digest}\n" for digest in (self.tensors.sha256, *(digest for _, digest in self.adapters)))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def config_sha256(self) -> str:
        """Digest of the values in config.json: the same weights with other values are another model."""
        return _config_digest(self.config)


def _config_digest(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def save_checkpoint(
    folder: Path | str,
    module: nn.Module | Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    extra_json: Mapping[str, Any] | None = None,
    extra_tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
    extra_files: Mapping[str, bytes] | None = None,
) -> None:
    """Write a checkpoint folder atomically.

    Args:
        folder: created or replaced as a whole.
        module: whose state dict is written, or the state dict itself.
        config: written as config.json.
        extra_json: file name -> JSON content, such as quality.json.
        extra_tensors: file name -> tensors, such as the training state.
        extra_files: file name -> content, such as a loss curve.

    Raises:
        OutputError: the folder could not be written; the old one stays.
        CheckpointError: a tensor holds NaN or infinity.
    """
    from safetensors.torch import save
    from torch import nn

    from aigc_models.weights.load_into import require_finite

    state = module.state_dict() if isinstance(module, nn.Module) else dict(module)
    require_finite(state, "model")
    with atomic_directory(folder, marker=CONFIG_FILE) as staging:
        for name, tensors in {WEIGHTS_FILE: state, **(extra_tensors or {})}.items():
            # Written from memory: safetensors' own writer hides a full disk behind its own error type, and makes the
            # file mode 0600, which a shared installation cannot read.
            plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
            (staging / name).write_bytes(save(plain, {_CONFIG_DIGEST: _config_digest(config)}))
        for name, content in {CONFIG_FILE: config, **(extra_json or {})}.items():
            text = json.dumps(content, indent=2, allow_nan=False)
            (staging / name).write_text(text + "\n", encoding="utf-8")
        for name, data in (extra_files or {}).items():
            (staging / name).write_bytes(data)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint folder, or a weights file or an index of shards with config.json beside it.

    Of the weights, only what the files say about themselves is read and checked.

    Raises:
        CheckpointError: missing, corrupt, foreign, or more than one model; says what was found and what to do.
    """
    place = find_weights(path)
    # The weights first: who gives a lone .pt file must hear about pickle, not about a missing config.json.
    tensors = StoredWeights(place.weights)
    config = _read_config(place.weights.parent / CONFIG_FILE, given=path)
    notes = [*place.notes, *tensors.notes]
    # What was saved is compared as JSON holds it: tuples are lists there.
    if tensors.metadata.get(_CONFIG_DIGEST, _config_digest(config)) != _config_digest(config):
        notes.append(f"{CONFIG_FILE} was changed after {place.weights.name} was written with another")
    kept, pieces = read_kept(place.weights.parent)
    return Checkpoint(
        data=kept,
        held_out=pieces.get("held_out", ()),
        calibration=pieces.get("calibration", ()),
        config=config,
        tensors=tensors,
        path=place.weights,
        notes=tuple(notes),
    )


def _read_config(path: Path, *, given: Path | str) -> dict[str, Any]:
    if not path_exists(path):
        raise CheckpointError(
            f"checkpoint {str(given)!r} has no {CONFIG_FILE}",
            hint=f"a checkpoint is a folder with {WEIGHTS_FILE} and {CONFIG_FILE}: docs/checkpoint.md shows one",
        )
    raw = read_file(path, limit=MAX_CONFIG_BYTES, error=CheckpointError)
    config = loads_strict(raw, what=str(path), error=CheckpointError, written_by_hand=True)
    if not isinstance(config, dict):
        raise CheckpointError(f"{str(path)!r} is not a JSON object")
    return config
