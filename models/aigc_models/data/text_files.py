"""The user's text files: found in one order everywhere, read as the bytes that they are, or refused by name."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from aigc_runtime.errors import AigcError, InputError
from aigc_runtime.io.strict_json import wide_encoding
from aigc_runtime.io.user_file import is_folder, read_file

__all__ = ["JSONL_SUFFIX", "MAX_TEXT_BYTES", "TEXT_SUFFIXES", "TextFiles", "read_text_files"]

TEXT_SUFFIXES = (".txt", ".md", ".py", ".rst", ".json", ".csv", ".html")
JSONL_SUFFIX = ".jsonl"
"""Of files whose lines are JSON, which are read where it is asked for."""
MAX_TEXT_BYTES = 2**31
"""Of all files together."""
MAX_CONTROL_SHARE = 1e-3
"""Share of control characters from which on a file is no text."""
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_HINT = "expected UTF-8 text: a file, or a folder of them"


@dataclass(frozen=True, kw_only=True)
class TextFiles:
    """The texts that were read.

    Attributes:
        texts: of every file that is not empty, in the order of the files' names.
        files: the files that they stand in.
        left_out: files of a folder whose names do not end as those of texts do.
        raw: whether it is a single file of another ending, taken as the bytes that it holds.
    """

    texts: tuple[bytes, ...]
    files: tuple[Path, ...]
    left_out: tuple[str, ...] = ()
    raw: bool = False


def read_text_files(
    path: Path | str,
    *,
    raw_allowed: bool = False,
    suffixes: Collection[str] = TEXT_SUFFIXES,
    error: type[AigcError] = InputError,
) -> TextFiles:
    """Read a text file, or every text file below a folder.

    Names are ordered by their bytes, folder by folder, whatever the locale. What begins with a dot is passed over.
    Links are followed, and a file that is reached twice is read once. Only UTF-8 text is taken.

    Args:
        path: file or folder.
        raw_allowed: take a single file whose name does not end as that of a text as the bytes that it holds.
        suffixes: of the files that are taken from a folder.
        error: the type to raise.

    Raises:
        AigcError: of type `error`; nothing there, a file that is no text, cannot be read or is none (a pipe, a link to
            nothing, links in a circle); names it.
    """
    given = Path(path)
    if is_folder(given):
        walk = _Walk(suffixes, error)
        files = list(walk.files(given, ()))
        if not files:
            raise error(f"no text files in {str(path)!r}", hint=f"looked for {', '.join(suffixes)}")
        left_out = tuple(walk.left_out)
    else:
        files, left_out = [given], ()
    raw = raw_allowed and files == [given] and given.suffix.lower() not in suffixes
    room, texts = MAX_TEXT_BYTES, dict[Path, bytes]()
    for file in files:
        data = read_file(file, limit=room, error=error)
        room -= len(data)
        _check_text(data, file, error, raw=raw)
        if data:
            texts[file] = data
    return TextFiles(texts=tuple(texts.values()), files=tuple(texts), left_out=left_out, raw=raw)


class _Walk:
    """Finds the text files below a folder."""

    def __init__(self, suffixes: Collection[str], error: type[AigcError]) -> None:
        self.suffixes = suffixes
        self.error = error
        self.left_out: list[str] = []
        self._seen: set[tuple[int, int]] = set()

    def files(self, folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
        try:
            status = folder.stat()
            entries = sorted(folder.iterdir(), key=lambda entry: os.fsencode(entry.name))
        except OSError as err:
            raise self.error(
                f"cannot read {str(folder)!r}: {err.strerror}", hint="check its permissions, or leave it out"
            ) from err
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise self.error(f"{str(folder)!r} is a link to a folder above it", hint="remove it: it has no end")
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from self.files(entry, (*above, here))
            elif entry.suffix.lower() in self.suffixes:
                if self._is_new(entry):
                    yield entry
            else:
                self.left_out.append(str(entry))

    def _is_new(self, file: Path) -> bool:
        """Check that a file was not reached before; what is no file is left to who reads it, and says what it is."""
        try:
            status = file.stat()
        except OSError:
            return True
        identity = (status.st_dev, status.st_ino)
        if stat.S_ISREG(status.st_mode) and identity in self._seen:
            return False
        self._seen.add(identity)
        return True


def _check_text(data: bytes, file: Path, error: type[AigcError], *, raw: bool) -> None:
    if encoding := wide_encoding(data):
        raise error(f"{str(file)!r} is in {encoding}, expected UTF-8", hint=f"save it as UTF-8; {_HINT}")
    if raw:
        return
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise error(
            f"{str(file)!r} is not UTF-8: byte 0x{data[err.start]:02x} at {err.start:,}",
            hint=f"save it as UTF-8, or leave it out; {_HINT}",
        ) from err
    if (found := len(_CONTROL.findall(data))) > MAX_CONTROL_SHARE * len(data):
        raise error(
            f"{str(file)!r} is binary: {found:,} of {len(data):,} characters are control characters",
            hint=f"leave it out; {_HINT}",
        )
