"""Keys and signatures for tests, made by the library alone; where it is missing, a test that asks is skipped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from aigc_runtime.bundle.signature import PublicKey


class Pair:
    """A pair of Ed25519 keys that is the same in every run."""

    def __init__(self, seed: int) -> None:
        pytest.importorskip("cryptography")
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self.private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.public = PublicKey(raw=self.private.public_key().public_bytes_raw())

    def sign(self, manifest: bytes, *, prefix: bytes = b"aigc-bundle-manifest-v1\n", key_id: str = "") -> bytes:
        """The bytes of manifest.sig, written out here once more."""
        plain = {
            "format": "aigc-signature",
            "format_version": 1,
            "key_id": key_id or hashlib.sha256(self.public.raw).hexdigest()[:16],
            "signature": self.private.sign(prefix + manifest).hex(),
        }
        return (json.dumps(plain, indent=2) + "\n").encode()

    def sign_bundle(self, folder: Path) -> Path:
        (folder / "manifest.sig").write_bytes(self.sign((folder / "manifest.json").read_bytes()))
        return folder

    def write_pem(self, path: Path) -> Path:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        public = self.private.public_key()
        path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        return path
