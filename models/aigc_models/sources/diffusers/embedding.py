"""Textual inversions: learned vectors of a text encoder that stand for a new token (Gal et al. 2022, section 4).

| file | holds | its token |
| --- | --- | --- |
| of diffusers | one tensor [D] or [n, D] | the tensor's name |
| of A1111, `.safetensors` | `emb_params` [n, D] | the file's name |
| of A1111, `.pt` | `string_to_param["*"]` [n, D] | its `name` |
| of Stable Diffusion XL | `clip_l` [n, D] and `clip_g` [n, D'] | the file's name |

n vectors are n tokens `TOKEN`, `TOKEN_1`, ..., and the first in a prompt stands for all of them, as in diffusers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aigc_models.weights.load_into import require_finite
from aigc_models.weights.pickled_weights import load_pickle
from aigc_models.weights.stored_weights import StoredWeights
from aigc_runtime.bundle.origin import can_be_recorded
from aigc_runtime.errors import CheckpointError, ConfigError
from aigc_runtime.io.printable import shown
from aigc_runtime.io.user_file import is_folder, path_exists, read_file
from aigc_runtime.pipelines.text_to_image_settings import TEXT_ENCODER, TEXT_ENCODER_2

__all__ = ["Embedding", "open_embeddings"]

_FOLDER_FILES = ("learned_embeds.safetensors", "learned_embeds.bin")
"""What diffusers calls them."""
_PICKLED = (".pt", ".pth", ".bin")
_A1111, _XL = "emb_params", {"clip_l": TEXT_ENCODER, "clip_g": TEXT_ENCODER_2}
MAX_BYTES = 64 * 2**20
MAX_VECTORS = 1024
_HINT = (
    "supported are one tensor by the token's name (diffusers), emb_params or string_to_param (A1111), clip_l and "
    "clip_g (Stable Diffusion XL)"
)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """A textual inversion that was opened.

    Attributes:
        text: as it was typed.
        path: of the file.
        token: that it stands for.
        vectors: [n, D] float32 by text encoder; by the empty name for the one whose width fits.
        digest: SHA-256 of the file.
    """

    text: str
    path: Path
    token: str
    vectors: Mapping[str, Tensor] = field(repr=False)
    digest: str

    @property
    def where(self) -> str:
        """Its path, for messages."""
        return str(self.path)

    @property
    def sha256(self) -> str:
        """Digest of the file and the token."""
        return hashlib.sha256(f"{self.digest}\n{self.token}\n".encode()).hexdigest()

    def of(self, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """The vectors of each text encoder that gets some.

        Args:
            widths: of the states of the pipeline's text encoders, by name.

        Raises:
            CheckpointError: vectors of another width, or for an encoder that is not there; names both.
        """
        found: dict[str, Tensor] = {}
        for name, vectors in self.vectors.items():
            width = vectors.shape[1]
            fits = [encoder for encoder, size in widths.items() if size == width and name in ("", encoder)]
            if not fits:
                sizes = ", ".join(f"{encoder} {size}" for encoder, size in widths.items())
                raise CheckpointError(
                    f"the embedding {self.where!r} has vectors of {width} numbers" + (f" for {name}" if name else ""),
                    hint=f"it is of another model: this one's are of {sizes}",
                )
            found[fits[0]] = vectors
        return found


def open_embeddings(texts: Sequence[str]) -> tuple[Embedding, ...]:
    """Open textual inversions as `--embedding` names them, in their order.

    Args:
        texts: `FILE[:TOKEN]`, or a folder with learned_embeds.safetensors or .bin.

    Raises:
        CheckpointError: one is missing, damaged, of another form, or holds code.
        ConfigError: a token that is none, or two of one token.
    """
    found = tuple(_open(text) for text in texts)
    tokens = [embedding.token for embedding in found]
    if twice := next((token for token in tokens if tokens.count(token) > 1), None):
        raise ConfigError(
            f"two embeddings stand for the token {shown(twice)}", hint="name others: --embedding FILE:TOKEN"
        )
    return found


def _open(text: str) -> Embedding:
    path, token = _parse(text)
    if is_folder(path):
        path = next((path / name for name in _FOLDER_FILES if path_exists(path / name)), path / _FOLDER_FILES[0])
    if not path_exists(path):
        raise CheckpointError(
            f"no embedding at {str(path)!r}",
            hint=f"--embedding names a .safetensors or .pt file, or a folder with {_FOLDER_FILES[0]}",
        )
    raw = read_file(path, limit=MAX_BYTES, error=CheckpointError)
    read: Callable[[Path], tuple[str | None, dict[str, Any]]] = _stored
    if path.suffix.lower() in _PICKLED:
        read = _pickled
    own, vectors = read(path)
    token = token or own or path.stem
    if not token.strip() or any(character.isspace() or not character.isprintable() for character in token):
        raise ConfigError(
            f"the embedding {str(path)!r} stands for the token {shown(token)}",
            hint="name one without spaces: --embedding FILE:TOKEN",
        )
    return Embedding(
        text=text,
        path=path,
        token=token,
        vectors={name: _checked(value, str(path)) for name, value in vectors.items()},
        digest=hashlib.sha256(raw).hexdigest(),
    )


def _parse(text: str) -> tuple[Path, str]:
    """The path and the token of `FILE[:TOKEN]`; a file whose own name ends so is found as it is."""
    if not can_be_recorded(text):
        raise ConfigError(
            f"--embedding is {shown(text)}", hint="a path of printable characters: the bundle says what it was made of"
        )
    if path_exists(text):
        return Path(text), ""
    at = [i for i, character in enumerate(text) if character == ":"]
    split = next((i for i in at if i and path_exists(text[:i])), at[-1] if at else len(text))
    return Path(text[:split]), text[split + 1 :]


def _stored(path: Path) -> tuple[str | None, dict[str, Any]]:
    tensors = StoredWeights(path)
    return _tensors({name: tensors[name] for name in tensors}, path)


def _pickled(path: Path) -> tuple[str | None, dict[str, Any]]:
    found = load_pickle(path)
    if isinstance(found, Mapping) and "string_to_param" in found:
        inner, name = found["string_to_param"], found.get("name")
        if isinstance(inner, Mapping) and "*" in inner:
            return name if isinstance(name, str) else None, {"": inner["*"]}
    if isinstance(found, torch.Tensor):
        return None, {"": found}
    if isinstance(found, Mapping):
        return _tensors(dict(found), path)
    raise _foreign(path, type(found).__name__)


def _tensors(found: dict[str, Any], path: Path) -> tuple[str | None, dict[str, Any]]:
    """The token that a file of tensors names, None where it names none, and its vectors."""
    if found and found.keys() <= _XL.keys():
        return None, {_XL[name]: value for name, value in found.items()}
    if len(found) != 1:
        raise _foreign(path, f"the tensors {', '.join(map(shown, list(found)[:4])) or 'none'}")
    ((name, value),) = found.items()
    return None if name == _A1111 else str(name), {"": value}


def _foreign(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"the embedding {str(path)!r} holds {what}", hint=_HINT)


def _checked(value: Any, where: str) -> Tensor:
    if not isinstance(value, torch.Tensor) or value.dim() not in (1, 2) or not value.is_floating_point():
        form = f"a tensor of {list(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
        raise CheckpointError(f"the embedding {where!r} holds {form}, expected vectors [n, D]", hint=_HINT)
    vectors = value.detach().float()
    vectors = vectors.view(1, -1) if vectors.dim() == 1 else vectors
    if not 1 <= vectors.shape[0] <= MAX_VECTORS or not vectors.shape[1]:
        raise CheckpointError(
            f"the embedding {where!r} has {vectors.shape[0]} vectors of {vectors.shape[1]} numbers",
            hint=f"1 to {MAX_VECTORS:,} are supported",
        )
    require_finite({"vectors": vectors}, where)
    return vectors
