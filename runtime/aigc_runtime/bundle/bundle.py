"""A bundle on disk: written in one step, and verified byte by byte before anything parses it."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from aigc_runtime.bundle.folder import BundleFolder
from aigc_runtime.bundle.manifest import FileInfo, Manifest, check_file_name, with_files
from aigc_runtime.bundle.manifest_file import MAX_MANIFEST_BYTES, dump_manifest, parse_manifest
from aigc_runtime.bundle.signature import MAX_SIGNATURE_BYTES, SIGNATURE, PublicKey, check_keys, verify_signature
from aigc_runtime.bundle.trusted_keys import environment_keys
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import AigcError, BundleError, BundleReplacedError, EngineError, OutputError
from aigc_runtime.io.npy import read_npy
from aigc_runtime.io.publish import atomic_directory
from aigc_runtime.io.publish_checks import MANIFEST, check_directory

__all__ = [
    "MANIFEST",
    "Bundle",
    "Sign",
    "check_destination",
    "fill_bundle",
    "load_bundle",
    "retry_replaced",
    "write_bundle",
]

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

_CHUNK = 1 << 20
_ATTEMPTS = 100
"""How often a bundle is opened that is replaced while it is opened: far more than a writer can do in that time."""

Sign = Callable[[bytes], bytes]
"""The bytes of manifest.json -> those of manifest.sig."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle: every file has been hashed and agrees with the manifest.

    Attributes:
        path: the folder.
        manifest: its manifest.
        manifest_sha256: digest of manifest.json; pin it to pin the whole bundle.
        has_signature: whether there is a manifest.sig, right or wrong.
        signed_by: id of the trusted key whose signature was verified; None where no signature was checked.
        folder: the open folder that everything is read from; closed with the bundle, or when nothing refers to it.
    """

    path: Path
    manifest: Manifest
    manifest_sha256: str
    has_signature: bool = False
    signed_by: str | None = None
    folder: BundleFolder = field(repr=False, compare=False)

    @staticmethod
    def open(
        path: Path | str,
        *,
        expect_manifest_sha256: str | None = None,
        trusted_keys: Sequence[PublicKey] | None = None,
    ) -> Bundle:
        """Open and verify a bundle.

        Args:
            path: the folder.
            expect_manifest_sha256: refuse any other manifest. Hashes in the bundle prove that it is whole; only a
                digest from somewhere else, or a signature, proves which one it is.
            trusted_keys: refuse a bundle that none of these keys signed, before anything in it is parsed. None takes
                the keys that the environment variable AIGC_TRUSTED_KEYS names; where it is not set, no signature is
                checked.

        Raises:
            BundleError: a missing, extra, linked, cut, changed or special file; a signature that is missing, wrong or
                by another key; names it.
            BundleReplacedError: it was replaced again and again while it was opened.
            ConfigError: an empty list of keys, or a key that cannot be read.
            EngineMissingError: keys were given, and the package `cryptography` is not installed.
        """
        keys = environment_keys() if trusted_keys is None else trusted_keys
        if keys is not None:
            check_keys(keys)
        return load_bundle(path, expect_manifest_sha256=expect_manifest_sha256, keys=keys)

    def file(self, name: str) -> FileInfo:
        """The manifest's entry of a file.

        Raises:
            BundleError: no such file.
        """
        for info in self.manifest.files:
            if info.path == name:
                return info
        raise BundleError(f"the bundle has no file {name!r}")

    def read(self, name: str) -> bytes:
        """A file's bytes, hashed again: what is returned is what the manifest describes.

        Raises:
            BundleError: no such file, or it changed since the bundle was opened.
            BundleReplacedError: it went with the bundle, which was replaced since it was opened.
        """
        info = self.file(name)
        with self.unless_replaced():
            data = self.folder.read(name, info.size)
            if len(data) != info.size or hashlib.sha256(data).hexdigest() != info.sha256:
                raise BundleError(f"file {name!r} changed after the bundle was opened", hint="bundles are immutable")
        return data

    @contextlib.contextmanager
    def unless_replaced(self, *, opened_by_path: bool = False) -> Iterator[None]:
        """Tell a bundle that was replaced from one that is damaged, where a file of it is not as it should be.

        Args:
            opened_by_path: the block lets a library open files of `folder.location`.

        Raises:
            BundleReplacedError: in place of an error of the block, if another bundle has taken this one's place; or
                the library may have opened that one's files.
        """
        cause: AigcError | None = None
        try:
            yield
        except (BundleError, EngineError) as err:
            if not self.folder.replaced():
                raise
            cause = err
        if cause is not None or (opened_by_path and not self.folder.is_pinned and self.folder.replaced()):
            raise BundleReplacedError(
                f"the bundle {str(self.path)!r} was replaced by another after it was opened", hint="open it again"
            ) from cause

    def close(self) -> None:
        """Give the folder's handle back; a closed bundle reads no more files."""
        self.folder.close()

    def __enter__(self) -> Bundle:
        """The bundle, closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def array(self, name: str) -> Array:
        """The array in a .npy file.

        Raises:
            BundleError: no such file, changed, or not an array.
        """
        return read_npy(self.read(name), what=name)

    @property
    def assets(self) -> Mapping[str, bytes]:
        """The files that the pipeline reads: name -> content, read from the bundle when it is asked for."""
        return _Assets(self)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files but the manifest and its signature."""
        return sum(info.size for info in self.manifest.files)

    @property
    def signature_told(self) -> str:
        """Whether the bundle is signed, in words."""
        if self.signed_by is not None:
            return f"signed by {self.signed_by}, verified"
        return "signed, not checked" if self.has_signature else "not signed"


class _Assets(Mapping[str, bytes]):
    """Files of a bundle, each hashed when it is read."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def __getitem__(self, name: str) -> bytes:
        if name not in self._bundle.manifest.assets:
            raise KeyError(name)
        return self._bundle.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._bundle.manifest.assets)

    def __len__(self) -> int:
        return len(self._bundle.manifest.assets)


def retry_replaced(work: Callable[[], T]) -> T:
    """Do something with a bundle that it opens by path, again if another bundle took its place meanwhile.

    Raises:
        BundleReplacedError: that happened again and again.
    """
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(BundleReplacedError):
            return work()
        _LOG.info("the bundle was replaced while it was opened: again")
    return work()


def load_bundle(
    path: Path | str, *, expect_manifest_sha256: str | None = None, keys: Sequence[PublicKey] | None = None
) -> Bundle:
    """`Bundle.open` without the environment's say, for who makes and signs bundles: None checks no signature."""
    for _ in range(_ATTEMPTS):
        folder = BundleFolder(Path(path))
        try:
            return _load(folder, expect_manifest_sha256, keys)
        except BundleError:
            if not folder.replaced():
                folder.close()
                raise
        folder.close()
    raise BundleReplacedError(
        f"{str(path)!r} was replaced again and again while it was opened", hint="try again when nothing writes it"
    )


def _load(folder: BundleFolder, expect_manifest_sha256: str | None, keys: Sequence[PublicKey] | None) -> Bundle:
    found = folder.names()
    raw = folder.read(MANIFEST, MAX_MANIFEST_BYTES)
    digest = hashlib.sha256(raw).hexdigest()
    if expect_manifest_sha256 is not None and digest != expect_manifest_sha256:
        raise BundleError(
            f"manifest.json has SHA-256 {digest}, expected {expect_manifest_sha256}",
            hint="this is not the bundle you pinned: get it again from where the digest came from",
        )
    # A link to nothing is there, too. One that is written a moment later is not looked at.
    signature = folder.read(SIGNATURE, MAX_SIGNATURE_BYTES) if SIGNATURE in found else None
    signed_by = None if keys is None else _verified(raw, signature, keys)
    manifest = parse_manifest(raw)
    _check_listing(found, manifest, signed=signature is not None)
    for info in manifest.files:
        _check_file(folder, info)
    bundle = Bundle(
        path=folder.path,
        manifest=manifest,
        manifest_sha256=digest,
        has_signature=signature is not None,
        signed_by=signed_by,
        folder=folder,
    )
    _LOG.info("opened %s: %s, manifest %s, %s", bundle.path, manifest.name, digest, bundle.signature_told)
    return bundle


def _verified(manifest: bytes, signature: bytes | None, keys: Sequence[PublicKey]) -> str:
    if signature is None:
        raise BundleError(
            "the bundle is not signed, and only signed ones are trusted here",
            hint="have its maker sign it: `aigc-export sign BUNDLE --key private.pem`",
        )
    return verify_signature(manifest, signature, keys)


def write_bundle(
    destination: Path | str, manifest: Manifest, files: Mapping[str, bytes | Path], *, sign: Sign | None = None
) -> None:
    """Publish a bundle in one step; a signature that an old one had goes with it.

    Args:
        destination: the folder to create, or the bundle to replace.
        manifest: without its list of files, which is made here.
        files: name -> content, or a file to copy.
        sign: signs the manifest, so that the bundle appears with its signature; None publishes an unsigned one.

    Raises:
        OutputError: it could not be written, or is not there as it was written; an old bundle stays as it was.
        ConfigError: a file name that is not allowed.
    """
    needed = sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in files.values())
    with atomic_directory(destination, marker=MANIFEST, needed_bytes=needed) as staging:
        fill_bundle(staging, manifest, files)
        if sign is not None:
            (staging / SIGNATURE).write_bytes(sign((staging / MANIFEST).read_bytes()))
        _check_written(staging)
    _LOG.info("published %s: %d files, %d bytes", destination, len(files), needed)


def _check_written(staging: Path) -> None:
    """Read every file again, by hash, before the bundle is published."""
    try:
        load_bundle(staging)
    except BundleError as err:
        raise OutputError(
            f"what was written is not there as it was written: {err.message}",
            hint="the disk fails, or something else changes the files in that folder; nothing was published",
        ) from err


def check_destination(destination: Path | str) -> None:
    """Refuse a folder that no bundle may be written to, before any work is done for it.

    Raises:
        OutputError: somebody else's folder or file, or a parent that cannot be written to.
    """
    check_directory(destination, marker=MANIFEST)


def fill_bundle(folder: Path, manifest: Manifest, files: Mapping[str, bytes | Path]) -> Manifest:
    """Write a bundle's files into an existing folder, without publishing; returns the completed manifest."""
    infos = []
    for name, content in files.items():
        check_file_name(name)
        digest, size = hashlib.sha256(), 0
        with (folder / name).open("wb") as out:
            for chunk in _chunks(content):
                digest.update(chunk)
                size += len(chunk)
                out.write(chunk)
        infos.append(FileInfo(path=name, size=size, sha256=digest.hexdigest()))
    complete = with_files(manifest, tuple(infos))
    (folder / MANIFEST).write_bytes(dump_manifest(complete))
    return complete


def _chunks(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _check_listing(found: set[str], manifest: Manifest, *, signed: bool) -> None:
    expected = {info.path for info in manifest.files} | {MANIFEST} | ({SIGNATURE} if signed else set())
    if missing := sorted(expected - found):
        raise BundleError(f"the bundle lacks {missing[0]!r}", hint="copy it again, with every file")
    if extra := sorted(found - expected):
        raise BundleError(
            f"the bundle holds {extra[0]!r}, which its manifest does not list",
            hint="remove it, or copy the bundle again",
        )


def _check_file(folder: BundleFolder, info: FileInfo) -> None:
    with os.fdopen(folder.open(info.path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != info.size:
            raise BundleError(
                f"{info.path!r} has {size:,} bytes, expected {info.size:,}", hint="it was cut or changed: copy it again"
            )
        digest = hashlib.sha256()
        try:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        except OSError as err:
            raise BundleError(
                f"{info.path!r} cannot be read: {err.strerror}", hint="check the disk, or copy the bundle again"
            ) from err
    if digest.hexdigest() != info.sha256:
        raise BundleError(
            f"{info.path!r} has SHA-256 {digest.hexdigest()}, expected {info.sha256}",
            hint="it was changed or damaged: copy the bundle again",
        )
