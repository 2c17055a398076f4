"""Contexts of a model with cross-attention from an `.npz` that the user names: read without unpickling anything."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from aigc_runtime.core.tensors import Array, TensorSpec
from aigc_runtime.errors import InputError
from aigc_runtime.io.npy import read_npy
from aigc_runtime.io.user_file import open_plain
from aigc_runtime.pipelines.denoiser import CONTEXT, CONTEXT_TOKENS, NULL_CONTEXT
from aigc_runtime.pipelines.limits import MAX_NUMBERS

__all__ = ["CONTEXT", "CONTEXT_TOKENS", "NULL_CONTEXT", "read_embeddings"]

_MAX_BYTES = 4 * MAX_NUMBERS
_HINT = "write it with numpy.savez, from float32 arrays"


def read_embeddings(path: Path | str, spec: TensorSpec) -> dict[str, Array]:
    """Read `encoder_hidden_states` [N, T, X], and `null_encoder_hidden_states` where it is there.

    Args:
        path: the file.
        spec: of the engine's input.

    Returns:
        float32 arrays by name; float16 is widened, which changes no number.

    Raises:
        InputError: it cannot be read, holds other arrays, or such as the model does not take.
    """
    what = str(path)
    try:
        with os.fdopen(open_plain(path), "rb") as file, zipfile.ZipFile(file) as archive:
            arrays = {name: _read(archive, entry, what) for name, entry in _entries(archive, what).items()}
    except OSError as err:
        raise InputError(f"cannot read {what!r}: {err.strerror or err}", hint="check the disk it is on") from err
    # RuntimeError: encrypted, or compressed by a method that is not known here.
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error) as err:
        raise InputError(f"{what!r} is not an .npz of plain arrays: {err}", hint=_HINT) from err
    return {name: _checked(array, spec, f"{name} of {what!r}") for name, array in arrays.items()}


def _entries(archive: zipfile.ZipFile, what: str) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename.removesuffix(".npy")
        if name not in (CONTEXT, NULL_CONTEXT):
            raise InputError(f"{what!r} holds an array {name!r}", hint=f"it may hold {CONTEXT} and {NULL_CONTEXT}")
        if name in entries:
            raise InputError(f"{what!r} holds {name!r} twice", hint=_HINT)
        entries[name] = entry
    if CONTEXT not in entries:
        raise InputError(f"{what!r} has no array {CONTEXT!r}", hint=_HINT)
    if (size := sum(entry.file_size for entry in entries.values())) > _MAX_BYTES:
        raise InputError(f"{what!r} holds {size:,} bytes of arrays", hint=f"at most {_MAX_BYTES:,} are allowed")
    return entries


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, what: str) -> Array:
    with archive.open(entry) as stream:
        return read_npy(
            stream.read(entry.file_size),
            what=f"{entry.filename!r} of {what!r}",
            error=InputError,
            dtypes=("float32", "float16"),
        )


def _checked(array: Array, spec: TensorSpec, what: str) -> Array:
    width = spec.shape[2]
    fits = array.ndim == 3 and 0 not in array.shape and array.shape[2] == width
    if not fits or array.dtype not in (np.float16, np.float32):
        raise InputError(
            f"{what} is {array.dtype} {list(array.shape)}",
            hint=f"this model takes float32 [N, T, {width}], none of them 0",
        )
    if not np.isfinite(array).all():
        raise InputError(f"{what} holds NaN or infinity", hint="make it again from the prompt")
    return array.astype(np.float32, copy=False)
