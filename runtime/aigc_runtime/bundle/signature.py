"""`manifest.sig`: an Ed25519 signature (RFC 8032) of a bundle's manifest, and through its hashes of every file.

What is signed is `PREFIX` and then the exact bytes of `manifest.json`. The prefix keeps a signature that was made for
something else from ever counting as one of a bundle.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aigc_runtime.errors import BundleError, ConfigError, EngineMissingError
from aigc_runtime.io.jsonable import from_json, to_json
from aigc_runtime.io.strict_json import loads_strict

__all__ = [
    "MAX_SIGNATURE_BYTES",
    "SIGNATURE",
    "PublicKey",
    "Signature",
    "check_keys",
    "dump_signature",
    "ed25519_verifies",
    "missing_cryptography",
    "parse_signature",
    "signed_message",
    "verify_signature",
]

SIGNATURE = "manifest.sig"
MAX_SIGNATURE_BYTES = 4096
FORMAT_VERSION = 1
PREFIX = b"aigc-bundle-manifest-v1\n"

_KEY_ID = re.compile(r"[0-9a-f]{16}")
_HEX = re.compile(r"[0-9a-f]{128}")


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """An Ed25519 public key.

    Attributes:
        raw: its 32 bytes.
    """

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != 32:
            raise ConfigError(f"a public key has {len(self.raw)} bytes", hint="an Ed25519 key has 32")

    @property
    def key_id(self) -> str:
        """The first 16 hexadecimal digits of its SHA-256: a short name, not a proof."""
        return hashlib.sha256(self.raw).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The content of `manifest.sig`: whose key, and 64 bytes in lower-case hexadecimal."""

    format: Literal["aigc-signature"] = "aigc-signature"
    format_version: int = FORMAT_VERSION
    key_id: str
    signature: str

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ConfigError(f"format_version is {self.format_version}", hint=f"known: {FORMAT_VERSION}")
        if not _KEY_ID.fullmatch(self.key_id):
            raise ConfigError(f"key_id is {self.key_id!r}", hint="16 lower-case hexadecimal digits")
        if not _HEX.fullmatch(self.signature):
            raise ConfigError("signature is malformed", hint="128 lower-case hexadecimal digits")


def dump_signature(signature: Signature) -> bytes:
    """The bytes of `manifest.sig`: two spaces of indentation, the order of the fields, a final newline."""
    return (json.dumps(to_json(signature), indent=2) + "\n").encode()


def parse_signature(data: bytes) -> Signature:
    """Parse `manifest.sig` strictly; only the very bytes that `dump_signature` writes are taken.

    Raises:
        BundleError: too large, not strict JSON, another format or version, an unknown field, another spelling.
    """
    if len(data) > MAX_SIGNATURE_BYTES:
        raise BundleError(f"{SIGNATURE!r} is larger than {MAX_SIGNATURE_BYTES:,} bytes", hint="get the bundle again")
    plain = loads_strict(data, what=SIGNATURE)
    version = plain.get("format_version") if isinstance(plain, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise BundleError(
            f"{SIGNATURE!r} has format version {version}, this runtime knows {FORMAT_VERSION}",
            hint="update aigc-runtime",
        )
    signature = from_json(Signature, plain, where=SIGNATURE)
    if dump_signature(signature) != data:
        raise BundleError(f"{SIGNATURE!r} is not written as the format says", hint="it was edited: get it again")
    return signature


def signed_message(manifest_bytes: bytes) -> bytes:
    """What a signature of a manifest signs."""
    return PREFIX + manifest_bytes


def verify_signature(manifest_bytes: bytes, signature_bytes: bytes, trusted_keys: Sequence[PublicKey]) -> str:
    """Check that one of `trusted_keys` signed a manifest.

    Args:
        manifest_bytes: manifest.json, byte for byte; nothing of it is parsed.
        signature_bytes: manifest.sig.
        trusted_keys: at least one.

    Returns:
        The id of the key that signed it.

    Raises:
        BundleError: malformed, by a key that is not among them, or wrong.
        ConfigError: no key, or something that is none.
        EngineMissingError: the package `cryptography` is not installed.
    """
    check_keys(trusted_keys)
    signature = parse_signature(signature_bytes)
    # The id only picks the key; what is trusted is the key itself.
    candidates = [key for key in trusted_keys if key.key_id == signature.key_id]
    if not candidates:
        known = ", ".join(sorted({key.key_id for key in trusted_keys}))
        raise BundleError(
            f"the bundle is signed by key {signature.key_id}, which is not trusted here",
            hint=f"trusted: {known}. Get the bundle from where it was made, or its maker's public key",
        )
    message, value = signed_message(manifest_bytes), bytes.fromhex(signature.signature)
    if not any(ed25519_verifies(key.raw, value, message) for key in candidates):
        raise BundleError(
            f"the signature does not belong to this manifest and key {signature.key_id}",
            hint="the manifest or the signature was changed: get the bundle again",
        )
    return signature.key_id


def check_keys(trusted_keys: Sequence[PublicKey]) -> None:
    """Refuse an empty list of keys, and one of something else: nothing would be checked.

    Raises:
        ConfigError: so it is.
    """
    if not all(isinstance(key, PublicKey) for key in trusted_keys):
        raise ConfigError("trusted_keys holds something that is no key", hint="read_trusted_keys([FILE]) reads keys")
    if not trusted_keys:
        raise ConfigError("trusted_keys is empty", hint="name at least one key; None checks no signature")


def ed25519_verifies(raw_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature is right (RFC 8032, section 5.1.7).

    Raises:
        EngineMissingError: the package `cryptography` is not installed.
        ConfigError: this machine's cryptography does not do Ed25519.
    """
    try:
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as err:
        raise missing_cryptography() from err
    try:
        Ed25519PublicKey.from_public_bytes(raw_key).verify(signature, message)
    except InvalidSignature:
        return False
    except UnsupportedAlgorithm as err:
        raise ConfigError(f"Ed25519 is not available here: {err}", hint="install a newer cryptography") from err
    return True


def missing_cryptography() -> EngineMissingError:
    """The error for a machine that cannot check or make signatures."""
    return EngineMissingError(
        "signatures need the package cryptography, which is not installed", hint="pip install 'aigc-runtime[verify]'"
    )
