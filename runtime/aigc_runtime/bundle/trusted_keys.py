"""The public keys that a device trusts: PEM files that are named, or named by the environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from aigc_runtime.bundle.signature import PublicKey, missing_cryptography
from aigc_runtime.errors import ConfigError
from aigc_runtime.io.user_file import is_folder, read_file

__all__ = ["TRUSTED_KEYS_VARIABLE", "environment_keys", "read_trusted_keys"]

TRUSTED_KEYS_VARIABLE = "AIGC_TRUSTED_KEYS"
MAX_KEY_BYTES = 64 * 1024


def read_trusted_keys(paths: Sequence[Path | str] | Path | str) -> tuple[PublicKey, ...]:
    """Read Ed25519 public keys.

    Args:
        paths: PEM files (SubjectPublicKeyInfo), and folders of `*.pem` files.

    Returns:
        At least one key.

    Raises:
        ConfigError: no path, a folder without keys, or a file that is anything but one Ed25519 public key; names it.
        EngineMissingError: the package `cryptography` is not installed.
    """
    named = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not all(str(path) for path in named):
        raise ConfigError("a trusted key has an empty path", hint="name a PEM file, or a folder of them")
    if not named:
        raise ConfigError("no trusted key was named", hint="name a PEM file, or a folder of them")
    return tuple(_read_key(file) for path in named for file in _files(Path(path)))


def environment_keys() -> tuple[PublicKey, ...] | None:
    """The keys that `AIGC_TRUSTED_KEYS` names; None where it is not set.

    Raises:
        ConfigError: it is set to nothing, or to something that is no key. A device that was told to check must not
            stop checking because a path went missing.
        EngineMissingError: the package `cryptography` is not installed.
    """
    value = os.environ.get(TRUSTED_KEYS_VARIABLE)
    if value is None:
        return None
    paths = value.split(os.pathsep)
    if not all(paths):
        raise ConfigError(
            f"{TRUSTED_KEYS_VARIABLE} is {value!r}, with an empty path in it",
            hint=f"name keys, with {os.pathsep!r} between them, or unset it to open bundles without a signature",
        )
    return read_trusted_keys(paths)


def _files(path: Path) -> list[Path]:
    if not is_folder(path):
        return [path]
    found = sorted(path.glob("*.pem"))
    if not found:
        raise ConfigError(f"the folder {str(path)!r} holds no *.pem file", hint="put the trusted public keys there")
    return found


def _read_key(path: Path) -> PublicKey:
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as err:
        raise missing_cryptography() from err
    data = read_file(path, limit=MAX_KEY_BYTES, error=ConfigError)
    try:
        # A second key in a file would be dropped without a word.
        key = load_pem_public_key(data) if data.count(b"-----BEGIN ") == 1 else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(
            f"{str(path)!r} is not one Ed25519 public key in PEM",
            hint="`aigc-export keygen` writes one as public.pem; a folder of trusted keys holds nothing else",
        )
    return PublicKey(raw=key.public_bytes_raw())
