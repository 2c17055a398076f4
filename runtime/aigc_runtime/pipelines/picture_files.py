"""Pictures that a user names on the command line, as arrays of 8 bits."""

from __future__ import annotations

from pathlib import Path

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError

__all__ = ["read_picture"]


def read_picture(path: str) -> tuple[Array, tuple[str, ...]]:
    """Read a picture: uint8 [H, W, channels], and what was done to it. A `.npy` of uint8 takes no Pillow.

    Raises:
        ImageError: the file cannot be read exactly; names it and says why.
        InputError: a `.npy` that is none of uint8.
        EngineMissingError: Pillow is not installed.
    """
    from aigc_runtime.io.npy import read_npy
    from aigc_runtime.io.pictures import MAX_PIXELS, read_pixels
    from aigc_runtime.io.user_file import read_file

    if Path(path).suffix.lower() == ".npy":
        data = read_file(path, limit=4 * MAX_PIXELS + 2**16)
        return read_npy(data, what=repr(path), error=InputError, dtypes=("uint8",)), ()
    picture = read_pixels(path)
    return picture.in_8_bits(), picture.notes
