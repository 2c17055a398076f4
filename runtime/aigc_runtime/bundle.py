"""A bundle on disk: written in one step, and verified byte by byte before anything parses it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aigc_runtime.errors import BundleError
from aigc_runtime.manifest import (
    MAX_MANIFEST_BYTES,
    FileInfo,
    Manifest,
    check_file_name,
    dump_manifest,
    parse_manifest,
    with_files,
)
from aigc_runtime.npy import read_npy
from aigc_runtime.publish import atomic_directory, check_directory
from aigc_runtime.tensors import Array

__all__ = ["MANIFEST", "Bundle", "check_destination", "fill_bundle", "write_bundle"]

MANIFEST = "manifest.json"
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle: every file has been hashed and agrees with the manifest.

    Attributes:
        path: the folder.
        manifest: its manifest.
        manifest_sha256: digest of manifest.json; pin it to pin the whole bundle.
    """

    path: Path
    manifest: Manifest
    manifest_sha256: str

    @staticmethod
    def open(path: Path | str, *, expect_manifest_sha256: str | None = None) -> Bundle:
        """Open and verify a bundle.

        Args:
            path: the folder.
            expect_manifest_sha256: refuse any other manifest. Hashes in the bundle prove that it is whole; only a
                digest from somewhere else proves which one it is.

        Raises:
            BundleError: a missing, extra, linked, cut, changed or special file; names it.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise BundleError(f"{str(folder)!r} is not a folder", hint="a bundle is the folder that `export -o` wrote")
        raw = _read_regular(folder / MANIFEST, MAX_MANIFEST_BYTES)
        digest = hashlib.sha256(raw).hexdigest()
        if expect_manifest_sha256 is not None and digest != expect_manifest_sha256:
            raise BundleError(
                f"manifest.json has SHA-256 {digest}, expected {expect_manifest_sha256}",
                hint="this is not the bundle you pinned: get it again from where the digest came from",
            )
        manifest = parse_manifest(raw)
        _check_listing(folder, manifest)
        for info in manifest.files:
            _check_file(folder / info.path, info)
        return Bundle(path=folder, manifest=manifest, manifest_sha256=digest)

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
        """
        info = self.file(name)
        data = _read_regular(self.path / name, info.size)
        if len(data) != info.size or hashlib.sha256(data).hexdigest() != info.sha256:
            raise BundleError(f"file {name!r} changed after the bundle was opened", hint="bundles are immutable")
        return data

    def array(self, name: str) -> Array:
        """The array in a .npy file.

        Raises:
            BundleError: no such file, changed, or not an array.
        """
        return read_npy(self.read(name), what=name)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(info.size for info in self.manifest.files)


def write_bundle(destination: Path | str, manifest: Manifest, files: Mapping[str, bytes | Path]) -> None:
    """Publish a bundle in one step.

    Args:
        destination: the folder to create, or the bundle to replace.
        manifest: without its list of files, which is made here.
        files: name -> content, or a file to copy.

    Raises:
        OutputError: it could not be written; an old bundle stays as it was.
        ConfigError: a file name that is not allowed.
    """
    needed = sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in files.values())
    with atomic_directory(destination, marker=MANIFEST, needed_bytes=needed) as staging:
        fill_bundle(staging, manifest, files)


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


def _check_listing(folder: Path, manifest: Manifest) -> None:
    expected = {info.path for info in manifest.files} | {MANIFEST}
    found = {entry.name for entry in folder.iterdir()}
    if missing := sorted(expected - found):
        raise BundleError(f"the bundle lacks {missing[0]!r}", hint="copy it again, with every file")
    if extra := sorted(found - expected):
        raise BundleError(
            f"the bundle holds {extra[0]!r}, which its manifest does not list",
            hint="remove it, or copy the bundle again",
        )


def _open_regular(path: Path) -> int:
    """Open a plain file that has no other name; never follows a link, never waits on a pipe.

    Raises:
        BundleError: it is something else, or cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except OSError as err:
        kind = "a symbolic link" if path.is_symlink() else f"not readable ({err.strerror})"
        raise BundleError(f"{path.name!r} is {kind}", hint="a bundle holds plain files only") from err
    status = os.fstat(handle)
    problem = ""
    if not stat.S_ISREG(status.st_mode):
        problem = "not a plain file"
    elif status.st_nlink > 1:
        problem = "a hard link, so another name could change it"
    if problem:
        os.close(handle)
        raise BundleError(f"{path.name!r} is {problem}", hint="a bundle holds plain files only: copy it again")
    return handle


def _read_regular(path: Path, limit: int) -> bytes:
    with os.fdopen(_open_regular(path), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise BundleError(f"{path.name!r} is larger than {limit:,} bytes", hint="the file was changed: get it again")
    return data


def _check_file(path: Path, info: FileInfo) -> None:
    with os.fdopen(_open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != info.size:
            raise BundleError(
                f"{info.path!r} has {size:,} bytes, expected {info.size:,}", hint="it was cut or changed: copy it again"
            )
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != info.sha256:
        raise BundleError(
            f"{info.path!r} has SHA-256 {digest.hexdigest()}, expected {info.sha256}",
            hint="it was changed or damaged: copy the bundle again",
        )
