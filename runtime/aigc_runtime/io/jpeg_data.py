"""Check that a JPEG file holds all its pixels: libjpeg fills up what is missing, and Pillow keeps its warning.

A file that was cut and got an end marker again (by a repair tool, a camera without power, a download in parts) decodes
without an error, to a picture whose rest is gray. Here the data of every scan are prolonged by some bytes and decoded
once more: a decoder that has found all pixels never looks at them, one that has not takes them for pixels.

What is damaged within, so that by chance as many pixels come out, or cut exactly at a restart, is not noticed: JPEG has
no checksum.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["lacks_pixels", "prolonged"]

_MARKER_IN_SCAN = re.compile(rb"\xff+[^\x00\xff]")
"""What ends entropy-coded data (ITU-T T.81, B.1.1.5): 0xFF that no 0x00 follows."""
_EOI, _SOS = 0xD9, 0xDA
_ALONE = {0x01, *range(0xD0, 0xD8)}
"""Markers without a length: TEM and the restarts."""
_HUFFMAN = (0xC0, 0xC1, 0xC2)
"""Frames: baseline, extended, progressive. An arithmetic coder may leave out zeros at the end, and is not checked."""
_MORE = bytes((7 * i * i + 89 * i + 31) % 255 for i in range(256))
"""No 0xFF among them."""


class _CutError(Exception):
    """The file ends within a segment, or before all bits of a coefficient were sent."""


def lacks_pixels(data: bytes, image: Image.Image) -> bool:
    """Check whether a JPEG file's data end before its picture does.

    Args:
        data: the file.
        image: decoded from it.
    """
    from PIL import Image

    try:
        more = prolonged(data)
    except _CutError:
        return True
    if more is None:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of a second picture behind the first, which is cut off here
        with Image.open(io.BytesIO(more), formats=("JPEG",)) as again:
            return again.tobytes() != image.tobytes()


def prolonged(data: bytes) -> bytes | None:
    """The first picture of a JPEG file with bytes added to the data of every scan.

    Returns:
        None for what is not Huffman-coded, or holds something else than segments.

    Raises:
        _CutError: it ends before the last bits of its picture.
    """
    parts: list[bytes] = []
    missing: dict[tuple[int, int], int] = {}
    at, huffman = 2, False
    while at + 2 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind == 0xFF:  # fill
            at += 1
            continue
        if kind == _EOI:
            if any(missing.values()):
                raise _CutError
            return data[:2] + b"".join(parts) + b"\xff\xd9" if huffman else None
        end = at + 2 + (0 if kind in _ALONE else int.from_bytes(data[at + 2 : at + 4], "big"))
        huffman = huffman or kind in _HUFFMAN
        parts.append(data[at:end])
        if kind == _SOS:
            missing |= _bits_missing(data[at + 4 : end])
        at = end
        if kind == _SOS or kind in _ALONE:
            found = _MARKER_IN_SCAN.search(data, at)
            at = len(data) + 1 if found is None else found.start()
            parts.append(data[end:at] + _MORE)
    if huffman and at + 2 > len(data):
        raise _CutError
    return None


def _bits_missing(scan: bytes) -> dict[tuple[int, int], int]:
    """(component, coefficient) -> lower bits that this scan leaves for a later one (T.81, B.2.3: Al)."""
    count = scan[0] if scan else 0
    if len(scan) != 4 + 2 * count:
        raise _CutError
    first, last, bits = scan[1 + 2 * count :]
    return {(scan[1 + 2 * i], k): bits & 15 for i in range(count) for k in range(first, min(last, 63) + 1)}
