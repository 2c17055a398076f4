"""What a checkpoint keeps of the data it was trained on: enough to be evaluated and calibrated on that data later.

`data.json` names the data. For text, two files lie beside it: a sample of what was held out, and one of what was
trained on, for calibration. They never overlap.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aigc_models.data.text_data import SEPARATOR, TextData
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.jsonable import from_json, to_json
from aigc_runtime.io.strict_json import loads_strict
from aigc_runtime.io.user_file import path_exists, read_file

__all__ = ["DATA_FILE", "KeptData", "KeptText", "data_files", "data_name", "read_kept"]

DATA_FILE = "data.json"
HELD_OUT_FILE = "held_out.txt"
CALIBRATION_FILE = "calibration.txt"
MAX_KEPT_BYTES = 1 << 20
"""Of each of the two texts; of longer ones, stretches from everywhere are kept."""
STRETCHES = 64
MAX_DATA_FILE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class KeptText:
    """A text file of a checkpoint.

    Attributes:
        file: its name.
        sha256: of its bytes.
        pieces: sizes of the pieces it is made of, which a newline separates: each stands in one file of the data.
        bytes_in_all: of which the file holds a sample, or all.
    """

    file: str
    sha256: str
    pieces: tuple[int, ...]
    bytes_in_all: int

    def __post_init__(self) -> None:
        if self.file not in (HELD_OUT_FILE, CALIBRATION_FILE):
            raise CheckpointError(f"file is {self.file!r}", hint=f"expected {HELD_OUT_FILE} or {CALIBRATION_FILE}")
        if not self.pieces or min(self.pieces) < 1:
            raise CheckpointError("pieces are none, or empty")


@dataclass(frozen=True, kw_only=True)
class KeptData:
    """The content of data.json.

    Attributes:
        name: of the data, as tables show it.
        held_out: text that training did not see; None for images.
        calibration: text that it did see; None for images.
    """

    name: str
    held_out: KeptText | None
    calibration: KeptText | None


def data_name(path: Path | str) -> str:
    """Name the user's data by its file or folder."""
    return Path(path).name or Path(path).resolve().name


def data_files(name: str, text: TextData | None = None) -> dict[str, bytes]:
    """Make the files that a checkpoint keeps, by name.

    Args:
        name: of the data.
        text: as it was split for training; None for images.
    """
    files: dict[str, bytes] = {}
    kept = {}
    for file, pieces in () if text is None else _texts(text):
        chosen = _sample(pieces)
        files[file] = SEPARATOR.join(chosen)
        kept[file] = KeptText(
            file=file,
            sha256=hashlib.sha256(files[file]).hexdigest(),
            pieces=tuple(map(len, chosen)),
            bytes_in_all=sum(map(len, pieces)),
        )
    data = KeptData(name=name, held_out=kept.get(HELD_OUT_FILE), calibration=kept.get(CALIBRATION_FILE))
    return {DATA_FILE: (json.dumps(to_json(data), indent=2) + "\n").encode(), **files}


def _texts(text: TextData) -> tuple[tuple[str, Sequence[bytes]], ...]:
    return (HELD_OUT_FILE, text.held_out_pieces), (CALIBRATION_FILE, text.train_pieces)


def _sample(pieces: Sequence[bytes]) -> list[bytes]:
    """All pieces; of too many bytes, stretches that begin at equal distances, each within one piece."""
    total = sum(map(len, pieces))
    if total <= MAX_KEPT_BYTES:
        return [piece for piece in pieces if piece]
    most, chosen, at, turn = MAX_KEPT_BYTES // STRETCHES, [], 0, 0
    for piece in pieces:
        end = 0
        while turn < STRETCHES and turn * total // STRETCHES < at + len(piece):
            first = max(turn * total // STRETCHES - at, end)
            end = min(first + most, len(piece))
            if first < end:
                chosen.append(piece[first:end])
            turn += 1
        at += len(piece)
    return chosen


def read_kept(folder: Path) -> tuple[KeptData | None, dict[str, tuple[bytes, ...]]]:
    """Read the data that a checkpoint folder keeps.

    Returns:
        What data.json says, and the pieces of `held_out` and `calibration`; nothing where there is no data.json.

    Raises:
        CheckpointError: data.json is invalid, or a file is not the one that it describes.
    """
    path = folder / DATA_FILE
    if not path_exists(path):
        return None, {}
    raw = read_file(path, limit=MAX_DATA_FILE_BYTES, error=CheckpointError)
    value = loads_strict(raw, what=str(path), error=CheckpointError)
    kept = from_json(KeptData, value, where=DATA_FILE, error=CheckpointError)
    named = {"held_out": kept.held_out, "calibration": kept.calibration}
    return kept, {name: _pieces(folder, text) for name, text in named.items() if text is not None}


def _pieces(folder: Path, text: KeptText) -> tuple[bytes, ...]:
    data = read_file(folder / text.file, limit=2 * MAX_KEPT_BYTES, error=CheckpointError)
    size = sum(text.pieces) + len(SEPARATOR) * (len(text.pieces) - 1)
    if hashlib.sha256(data).hexdigest() != text.sha256 or len(data) != size:
        raise CheckpointError(
            f"{str(folder / text.file)!r} is not the text that {DATA_FILE} describes",
            hint=f"copy the checkpoint again, or remove {DATA_FILE}: the model is then evaluated on other text",
        )
    pieces, at = [], 0
    for length in text.pieces:
        pieces.append(data[at : at + length])
        at += length + len(SEPARATOR)
    return tuple(pieces)
