"""Make keys and sign bundles, so that a device knows who made a bundle.

A private key is a PEM file (PKCS8), encrypted where the environment variable AIGC_KEY_PASSPHRASE is set.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aigc_runtime.bundle.bundle import MANIFEST, Bundle, Sign, load_bundle
from aigc_runtime.bundle.manifest_file import MAX_MANIFEST_BYTES
from aigc_runtime.bundle.signature import (
    SIGNATURE,
    PublicKey,
    Signature,
    dump_signature,
    missing_cryptography,
    signed_message,
    verify_signature,
)
from aigc_runtime.bundle.trusted_keys import TRUSTED_KEYS_VARIABLE, environment_keys
from aigc_runtime.errors import AigcError, BundleError, ConfigError, OutputError
from aigc_runtime.io.plain_file import read_regular
from aigc_runtime.io.publish import atomic_write_bytes
from aigc_runtime.io.publish_checks import refuse_inside_bundle
from aigc_runtime.io.publish_lock import destination_lock
from aigc_runtime.io.user_file import is_folder, read_file
from aigc_runtime.system.interrupts import interrupts_held

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "PASSPHRASE_VARIABLE",
    "PRIVATE_KEY",
    "PUBLIC_KEY",
    "Signer",
    "key_warning",
    "load_signer",
    "make_keys",
    "sign_bundle",
    "signature_warnings",
]

PRIVATE_KEY = "private.pem"
PUBLIC_KEY = "public.pem"
PASSPHRASE_VARIABLE = "AIGC_KEY_PASSPHRASE"  # noqa: S105 - a name
MAX_KEY_BYTES = 64 * 1024
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")


@dataclass(frozen=True, kw_only=True)
class Signer:
    """A private key that was loaded; call it with the bytes of manifest.json for those of manifest.sig.

    Attributes:
        public: the public half.
    """

    public: PublicKey
    private: Ed25519PrivateKey = field(repr=False)

    @property
    def key_id(self) -> str:
        """Id by which devices know the key."""
        return self.public.key_id

    def __call__(self, manifest_bytes: bytes) -> bytes:
        """Sign a manifest, and check the signature as a device will."""
        value = self.private.sign(signed_message(manifest_bytes))
        signed = dump_signature(Signature(key_id=self.key_id, signature=value.hex()))
        verify_signature(manifest_bytes, signed, [self.public])
        return signed


def make_keys(folder: Path | str) -> PublicKey:
    """Make a pair of keys: `private.pem`, for its owner alone, and `public.pem`, for the devices.

    Raises:
        OutputError: one of the files is there already, or cannot be written; neither is left behind.
        ConfigError: AIGC_KEY_PASSPHRASE is empty.
        EngineMissingError: the package `cryptography` is not installed.
    """
    with _cryptography():
        from cryptography.hazmat.primitives import serialization as form
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    passphrase = _passphrase()
    key = Ed25519PrivateKey.generate()
    locked = form.NoEncryption() if passphrase is None else form.BestAvailableEncryption(passphrase)
    try:
        private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, locked)
    except ValueError as err:  # what the library says names a length, never the passphrase
        raise ConfigError(f"{PASSPHRASE_VARIABLE} cannot be used: {err}", hint="set a shorter passphrase") from err
    public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    target = Path(folder)
    refuse_inside_bundle(target / PRIVATE_KEY)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise _not_written(target, err) from err
    with interrupts_held():
        _write_new(target / PRIVATE_KEY, private, mode=0o600)
        try:
            _write_new(target / PUBLIC_KEY, public, mode=0o644)
        except OutputError:
            (target / PRIVATE_KEY).unlink()
            raise
    return _public(key)


def load_signer(path: Path | str) -> Signer:
    """Load a private key.

    Raises:
        ConfigError: no such file, not a private Ed25519 key in PEM, encrypted and no or a wrong passphrase.
        EngineMissingError: the package `cryptography` is not installed.
    """
    with _cryptography():
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    data, passphrase = _read_key_file(Path(path)), _passphrase()
    # Of several, all but the first would be dropped without a word.
    if (count := len(_PRIVATE_KEY.findall(data))) > 1:
        raise ConfigError(f"{str(path)!r} holds {count} private keys", hint="give a file of one")
    encrypted = b"ENCRYPTED" in data
    if encrypted and passphrase is None:
        raise ConfigError(f"the key {str(path)!r} is encrypted", hint=f"set {PASSPHRASE_VARIABLE} to its passphrase")
    try:
        # A passphrase that is set for another key says nothing about this one.
        key = load_pem_private_key(data, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as err:
        advice = f"is {PASSPHRASE_VARIABLE} its passphrase?" if encrypted else "`aigc-export keygen -o DIR` makes one"
        raise ConfigError(f"{str(path)!r} cannot be read as a private key in PEM", hint=advice) from err
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{str(path)!r} is not an Ed25519 key", hint="`aigc-export keygen -o DIR` makes one")
    return Signer(public=_public(key), private=key)


def sign_bundle(path: Path | str, signer: Signer) -> Bundle:
    """Verify a bundle's hashes and sign it; an old signature is replaced.

    Returns:
        The bundle, opened again with the signer's key as the trusted one.

    Raises:
        BundleError: the bundle is damaged; it is left as it was.
        OutputError: the signature cannot be written.
    """
    # A link's own folder is not where the bundle is published, nor perhaps on the same disk.
    folder = Path(os.path.realpath(path))
    with contextlib.ExitStack() as stack:
        if is_folder(folder):
            # Otherwise an export could replace the bundle under our hands, and the signature end up in the new one.
            try:
                stack.enter_context(destination_lock(folder))
            except OSError as err:
                raise _not_written(folder / SIGNATURE, err) from err
        bundle = load_bundle(path)
        manifest = read_regular(folder / MANIFEST, MAX_MANIFEST_BYTES)
        if hashlib.sha256(manifest).hexdigest() != bundle.manifest_sha256:
            raise BundleError(
                "manifest.json changed while it was being signed", hint="sign a bundle that nobody writes to"
            )
        # Staged beside the bundle: a file that a killed run leaves must not be one that the manifest does not list.
        atomic_write_bytes(folder / SIGNATURE, signer(manifest), staging=folder.parent)
        return load_bundle(path, keys=[signer.public])


def key_warning(path: Path | str) -> str:
    """Say what is wrong with the permissions of a private key; empty if nothing is, or on Windows, which has none."""
    mode = stat.S_IMODE(Path(path).stat().st_mode)
    if os.name == "nt" or not mode & 0o077:
        return ""
    return f"the private key {str(path)!r} is open to others (mode {mode:04o}): `chmod 600` it, or make another"


def signature_warnings(destination: Path | str, sign: Sign | None) -> tuple[str, ...]:
    """Warn of devices that may refuse the new bundle for lack of a signature that they trust.

    Args:
        destination: of the bundle; what is there now is replaced.
        sign: what signs it; None: nothing.
    """
    trusted = os.environ.get(TRUSTED_KEYS_VARIABLE)
    if sign is None:
        found = []
        if os.path.lexists(Path(destination) / SIGNATURE):
            found.append(
                f"the bundle {str(destination)!r} is signed, and what replaces it will not be: devices that trust keys "
                "alone will refuse it; --sign-key FILE signs it"
            )
        if trusted is not None:
            found.append(
                f"{TRUSTED_KEYS_VARIABLE} is set, and the bundle will not be signed: this machine, and devices set up "
                "like it, will refuse it; --sign-key FILE signs it"
            )
        return tuple(found)
    if trusted is None or not isinstance(sign, Signer):
        return ()
    try:
        keys = environment_keys() or ()
    except AigcError as err:
        return (f"{TRUSTED_KEYS_VARIABLE} cannot be used here, so that no bundle will be opened: {err.message}",)
    if sign.key_id in {key.key_id for key in keys}:
        return ()
    return (
        f"the key {sign.key_id} is not among those that {TRUSTED_KEYS_VARIABLE} names: this machine will refuse it",
    )


@contextlib.contextmanager
def _cryptography() -> Iterator[None]:
    try:
        yield
    except ImportError as err:
        raise missing_cryptography() from err


def _public(key: Ed25519PrivateKey) -> PublicKey:
    return PublicKey(raw=key.public_key().public_bytes_raw())


def _passphrase() -> bytes | None:
    value = os.environ.get(PASSPHRASE_VARIABLE)
    if value == "":
        raise ConfigError(f"{PASSPHRASE_VARIABLE} is empty", hint="set a passphrase, or unset it for a key without one")
    return None if value is None else os.fsencode(value)  # the very bytes that the environment holds


def _read_key_file(path: Path) -> bytes:
    try:
        return read_file(path, limit=MAX_KEY_BYTES, error=ConfigError)
    except ConfigError as err:
        raise ConfigError(err.message, hint=f"{err.hint}; `aigc-export keygen -o DIR` makes a key") from err


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file that must not be there yet, with its permissions from the first byte on."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as err:
        raise OutputError(
            f"{str(path)!r} exists, and a key is never overwritten", hint="choose another folder, or move it away"
        ) from err
    except OSError as err:
        raise _not_written(path, err) from err
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as err:
        path.unlink()
        raise _not_written(path, err) from err


def _not_written(path: Path, err: OSError) -> OutputError:
    return OutputError(f"cannot write {str(path)!r}: {err.strerror or err}", hint="choose another place")
