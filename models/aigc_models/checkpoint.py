"""Checkpoints: `model.safetensors` and `config.json` in a folder, written whole or not at all, read with suspicion."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aigc_runtime.errors import CheckpointError
from aigc_runtime.publish import atomic_directory
from aigc_runtime.strict_json import loads_strict

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "Checkpoint", "load_checkpoint", "load_into", "save_checkpoint"]

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
MAX_HEADER_BYTES = 100 * 1024 * 1024
MAX_CONFIG_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint folder holds.

    Attributes:
        config: the content of config.json.
        tensors: name -> tensor.
        sha256: of the weights file.
        path: of the weights file.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    sha256: str
    path: Path


def save_checkpoint(
    folder: Path | str,
    module: nn.Module | Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    extra_json: Mapping[str, Any] | None = None,
    extra_tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write a checkpoint folder atomically.

    Args:
        folder: created or replaced as a whole.
        module: whose state dict is written, or the state dict itself.
        config: written as config.json.
        extra_json: file name -> JSON content, such as quality.json.
        extra_tensors: file name -> tensors, such as the training state.

    Raises:
        OutputError: the folder could not be written; the old one stays.
        CheckpointError: a tensor holds NaN or infinity.
    """
    from safetensors.torch import save

    state = module.state_dict() if isinstance(module, nn.Module) else dict(module)
    _require_finite(state, "model")
    with atomic_directory(folder, marker=CONFIG_FILE) as staging:
        for name, tensors in {WEIGHTS_FILE: state, **(extra_tensors or {})}.items():
            # Written from memory: safetensors' own writer hides a full disk behind its own error type, and makes the
            # file mode 0600, which a shared installation cannot read.
            (staging / name).write_bytes(save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}))
        for name, content in {CONFIG_FILE: config, **(extra_json or {})}.items():
            text = json.dumps(content, indent=2, allow_nan=False)
            (staging / name).write_text(text + "\n", encoding="utf-8")


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint folder, or a weights file with config.json beside it.

    Raises:
        CheckpointError: missing, corrupt or foreign; says what was found and what to do.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    given = Path(path)
    weights = given / WEIGHTS_FILE if given.is_dir() else given
    config_path = weights.parent / CONFIG_FILE
    # The weights first: who gives a lone .pt file must hear about pickle, not about a missing config.json.
    data = _read(given, weights)
    _check_header(weights, data)
    raw = _read(given, config_path)
    if len(raw) > MAX_CONFIG_BYTES:
        raise CheckpointError(f"{str(config_path)!r} is larger than {MAX_CONFIG_BYTES:,} bytes")
    config = loads_strict(raw, what=str(config_path), error=CheckpointError)
    if not isinstance(config, dict):
        raise CheckpointError(f"{str(config_path)!r} is not a JSON object")
    try:
        tensors = load(data)
    except SafetensorError as err:
        raise CheckpointError(
            f"{str(weights)!r} is corrupt: {err}", hint="copy it again from where it came from"
        ) from err
    return Checkpoint(config=config, tensors=tensors, sha256=hashlib.sha256(data).hexdigest(), path=weights)


def _read(given: Path, needed: Path) -> bytes:
    if not needed.is_file():
        raise CheckpointError(
            f"checkpoint {str(given)!r} has no {needed.name}",
            hint=f"a checkpoint is a folder with {WEIGHTS_FILE} and {CONFIG_FILE}",
        )
    try:
        return needed.read_bytes()
    except OSError as err:
        raise CheckpointError(
            f"cannot read {str(needed)!r}: {err.strerror}", hint="check the permissions of the file"
        ) from err


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str = "checkpoint") -> None:
    """Load tensors into a module: every name, shape and value is checked first.

    Raises:
        CheckpointError: names the tensor, the expected and the found shape, or the nearest name.
    """
    expected = module.state_dict()
    for name in (n for n in expected if n not in tensors):
        near = _nearest(name, tensors, taken=expected)
        raise CheckpointError(
            f"{source} lacks tensor {name!r} of shape {list(expected[name].shape)}",
            hint=(f"nearest in the file: {near!r}; " if near else "") + "is this a checkpoint of another model?",
        )
    for name in sorted(tensors.keys() - expected.keys()):
        near = _nearest(name, expected, taken=tensors)
        raise CheckpointError(
            f"{source} has a tensor {name!r} that the model has not",
            hint=(f"nearest in the model: {near!r}; " if near else "") + "does config.json belong to these weights?",
        )
    for name in expected:
        tensor = tensors[name]
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{source}: tensor {name!r} has shape {list(tensor.shape)}, expected {list(expected[name].shape)}",
                hint="does config.json belong to these weights?",
            )
    _require_finite(tensors, source)
    module.load_state_dict(dict(tensors), strict=True)


def _nearest(name: str, names: Iterable[str], *, taken: Container[str]) -> str:
    """The name most like `name`, rather one that has no partner yet; empty where none is like it."""
    all_names = list(names)
    for candidates in ([n for n in all_names if n not in taken], all_names):
        if near := difflib.get_close_matches(name, candidates, n=1):
            return near[0]
    return ""


def _require_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{source}: tensor {name!r} holds {bad} values that are NaN or infinite",
                hint="the training diverged, or the file is damaged: use an earlier checkpoint",
            )


def _check_header(path: Path, data: bytes) -> None:
    """Refuse what is not safetensors, and duplicate names, of which the library silently keeps the last."""
    size = int.from_bytes(data[:8], "little")
    # A header's size may begin with the very bytes of a zip file or a pickle: what follows it decides.
    if len(data) > 8 and data[8:9] == b"{" and size <= min(len(data) - 8, MAX_HEADER_BYTES):
        loads_strict(data[8 : 8 + size], what=f"the header of {str(path)!r}", error=CheckpointError)
        return
    if data[:2] == b"PK" or data[:1] == b"\x80":
        raise CheckpointError(
            f"{str(path)!r} is a pickle-based PyTorch file, which can run code when loaded",
            hint="where you trust it: safetensors.torch.save_file(torch.load(path, weights_only=True), "
            f"'{WEIGHTS_FILE}')",
        )
    raise CheckpointError(
        f"{str(path)!r} is not a safetensors file, or is cut short", hint="copy it again from where it came from"
    )
