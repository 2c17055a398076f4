"""How much one request may ask for; everything is checked before memory is taken."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aigc_runtime.core.interface import Interface
from aigc_runtime.errors import InputError
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.arguments import check_count
from aigc_runtime.pipelines.settings import DiffusionSettings
from aigc_runtime.system.host_memory import available_memory

__all__ = ["MAX_IMAGES", "MAX_NUMBERS", "check_image_count", "check_numbers", "check_size", "rows_at_once"]

MAX_IMAGES = 1_000_000
"""Images of one request."""

MAX_NUMBERS = 2**28
"""Numbers in one array: 1 GiB of float32."""

MAX_ROWS = 128
"""Images that are made together where the engine sets no limit."""

_RUN_FACTOR = 32
"""Values of a sample's size in a small network: two of 16 channels, the input and the output of a convolution."""

_GROUP_NUMBERS = 2**19
"""Numbers in the samples that go through the engine together, as far as single images allow. The engine's own memory is
a large multiple of it: activations have a hundred times the channels, and attention grows with the square of the area.
"""


def check_image_count(count: int) -> None:
    """Refuse more images than one request may ask for.

    Raises:
        InputError: with the limit.
    """
    if count > MAX_IMAGES:
        raise InputError(
            f"{count:,} images are requested" if count < 10**300 else f"{shown(count)} is the number of images",
            hint=f"at most {MAX_IMAGES:,} at once: ask again with another seed",
        )


def check_numbers(what: str, shape: tuple[int, ...], *, hint: str = "") -> None:
    """Refuse an array that is too large to be held.

    Raises:
        InputError: with its size and the limit.
    """
    if (numbers := math.prod(shape)) > MAX_NUMBERS:
        raise InputError(
            f"{what} of shape {list(shape)} would hold {numbers:,} numbers",
            hint=f"at most {MAX_NUMBERS:,} (1 GiB) are allowed{hint and '; ' + hint}",
        )


def check_run_memory(shape: tuple[int, int, int]) -> None:
    """Refuse a sample that no network could work on in the memory that is left, before it is tried.

    A network holds many values of a sample's size at once, `_RUN_FACTOR` at the very least.

    Args:
        shape: (C, H, W) of one sample.

    Raises:
        InputError: with what it needs at least, and what is free.
    """
    needed, free = 4 * _RUN_FACTOR * math.prod(shape), available_memory()
    if free is not None and needed > free:
        raise InputError(
            f"a sample of shape {list(shape)} needs {needed / 2**30:,.1f} GiB of memory at least, "
            f"{free / 2**30:,.1f} GiB are free",
            hint="ask for a smaller size",
        )


def rows_at_once(numbers: int, least: int, most: int | None, *, runs: int = 1) -> int:
    """How many images are made together.

    Args:
        numbers: in one image.
        least: rows that the engine takes at least in one run.
        most: rows that it takes at most; None where it does not say.
        runs: rows that one image takes.

    >>> rows_at_once(256, 1, 64), rows_at_once(256, 1, 64, runs=2), rows_at_once(2**25, 1, None)
    (64, 32, 1)
    >>> rows_at_once(2**18, 8, 8)
    8
    """
    rows = min(MAX_ROWS if most is None else most, _GROUP_NUMBERS // numbers)
    return max(1, max(least, rows) // runs)


def check_size(settings: DiffusionSettings, interface: Interface, size: tuple[int, int] | None) -> tuple[int, int, int]:
    """The shape (C, H, W) of samples of a size (H, W); None means the model's own.

    Args:
        settings: of the model.
        interface: of its engine.
        size: that is asked for.

    Raises:
        InputError: a size that the engine does not take, or that is too large.
    """
    c, h, w = settings.sample_shape
    if size is None:
        return c, h, w
    if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
        raise InputError(f"size is {shown(size)}", hint="must be (height, width)")
    height, width = check_count("height", size[0]), check_count("width", size[1])
    if (height, width) == (h, w):
        return c, h, w
    height_dim, width_dim = interface.dim("height"), interface.dim("width")
    if height_dim is None or width_dim is None:
        raise InputError(
            f"size is {shown(height)} x {shown(width)}", hint=f"this engine makes images of {h} x {w} only"
        )
    for dim, n in ((height_dim, height), (width_dim, width)):
        if n < dim.min or n % dim.multiple_of or (dim.max is not None and n > dim.max):
            bound = f"at least {dim.min}" if dim.max is None else f"{dim.min} to {dim.max}"
            raise InputError(f"{dim.name} is {shown(n)}", hint=f"must be {bound}, a multiple of {dim.multiple_of}")
    check_numbers("a sample", (c, height, width))
    if height * width > h * w:
        check_run_memory((c, height, width))
    return c, height, width
