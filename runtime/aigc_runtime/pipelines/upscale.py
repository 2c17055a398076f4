"""Enlarge pictures by an engine that takes tiles of one size.

Shapes: N tiles, C channels of the model, T side of a tile, S scale; pictures are [H, W] or [H, W, channels].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from aigc_runtime.core.program import MAIN_ENGINE, OpenProgram, as_program
from aigc_runtime.core.ranges import check_range
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import CancelledError, ConfigError, EngineError, InputError
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.arguments import batch_bounds, check_count, chunks, require_tensors
from aigc_runtime.pipelines.kind import SINGLE_ENGINE, Roles, require_roles
from aigc_runtime.pipelines.limits import rows_at_once
from aigc_runtime.pipelines.tiles import Span, plan_spans, reflected
from aigc_runtime.system.host_memory import available_memory

__all__ = ["IMAGE", "LARGE_IMAGE", "MAX_TILE", "UpscalePipeline", "UpscaleSettings"]

IMAGE, LARGE_IMAGE = "image", "large_image"
"""The tensors of such an engine."""
MAX_SCALE, MAX_TILE = 64, 8192
MAX_SIDE = 2**31 - 1
"""Of a result: PNG's own limit."""
Progress = Callable[[int, int], None]
Cancel = Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class UpscaleSettings:
    """How the pipeline uses the engine.

    Attributes:
        scale: S.
        channels: C, 1 or 3.
        tile: T, in pixels of the picture.
        overlap: pixels inside of a tile's cut edge whose results are not used.
        multiple_of: what T, and the place of every tile, are multiples of.
        value_range: black and white, as the engine takes and gives them.
    """

    scale: int
    channels: int
    tile: int
    overlap: int
    multiple_of: int = 1
    value_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_range("scale", self.scale, 1, MAX_SCALE)
        check_range("multiple_of", self.multiple_of, 1, MAX_SCALE)
        check_range("tile", self.tile, self.multiple_of, MAX_TILE)
        if self.channels not in (1, 3):
            raise ConfigError(f"channels is {self.channels}", hint="must be 1 or 3")
        if self.tile % self.multiple_of:
            raise ConfigError(f"tile is {self.tile}", hint=f"must be a multiple of {self.multiple_of}")
        check_range("overlap", self.overlap, 0, self.max_overlap)
        low, high = self.value_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"value_range is {list(self.value_range)}", hint="must be two numbers, the smaller first")

    @property
    def max_overlap(self) -> int:
        """The largest overlap that leaves something of a tile."""
        return (self.tile - self.multiple_of) // 2


class UpscalePipeline:
    """Enlarges pictures.

    Args:
        program: one engine, or the session of it, with the input `image` [N, C, T, T] and the output `large_image`
            [N, C, S T, S T].
        settings: scale, tiles and range.
        roles: which engine is the `model`.

    Raises:
        ConfigError: other roles, or the engine has other inputs or outputs, or other sizes.
    """

    def __init__(self, program: OpenProgram | Session, settings: UpscaleSettings, roles: Roles = SINGLE_ENGINE) -> None:
        require_roles("upscale", roles, (MAIN_ENGINE,))
        self.program = as_program(program)
        session = self.session = self.program.session(roles[MAIN_ENGINE])
        side = settings.scale * settings.tile
        require_tensors(
            session,
            inputs={IMAGE: ("float32", (None, settings.channels, settings.tile, settings.tile))},
            outputs={LARGE_IMAGE: ("float32", (None, settings.channels, side, side))},
        )
        self._bounds = batch_bounds(session, IMAGE)
        self.settings = settings

    def close(self) -> None:
        """Close the program."""
        self.program.close()

    def __enter__(self) -> UpscalePipeline:
        """The pipeline, its program closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the program."""
        self.close()

    def generate(
        self,
        image: Array,
        *,
        overlap: int | None = None,
        tiles_at_once: int | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Array:
        """Enlarge a picture.

        Colors go through a model of three channels together, and through one of one channel each by itself. Gray goes
        through three channels as three equal ones, and is the mean of what comes out. Transparency is enlarged as a
        gray picture of its own; where it is the same everywhere, it stays that.

        Args:
            image: [H, W] gray or [H, W, channels], of 1 (gray), 2 (gray and alpha), 3 (RGB) or 4 (RGBA): uint8, or
                float32 in [0, 1].
            overlap: pixels inside of a tile's cut edge whose results are not used; None takes the bundle's.
            tiles_at_once: that go through the engine together; None takes as many as little memory allows.
            progress: called as progress(done, total) with tiles of this picture.
            cancel: asked before every run.

        Returns:
            The same form and dtype with S times as long sides: uint8 rounded and cut to 0 and 255, float32 as the model
            gives it, about [0, 1].

        Raises:
            InputError: no such picture, an overlap that leaves nothing of a tile, or a result that is too large.
            EngineError: the engine failed, or gave NaN.
            CancelledError: `cancel` said so.
        """
        work = self._work(image, overlap, tiles_at_once)
        _check_memory(work.shape, work.pixels.dtype.itemsize)
        result = np.empty(work.shape, dtype=work.pixels.dtype)
        at = 0
        for band in self._bands(work, progress, cancel):
            result[at : at + len(band)] = band
            at += len(band)
        return result[:, :, 0] if image.ndim == 2 else result

    def stream(
        self,
        image: Array,
        *,
        overlap: int | None = None,
        tiles_at_once: int | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Iterator[Array]:
        """Enlarge a picture, of whose result only one row of tiles is in memory; arguments and errors as in `generate`.

        Yields:
            [rows, S W, channels]: from the top, as many rows as come together.
        """
        return self._bands(self._work(image, overlap, tiles_at_once), progress, cancel)

    def _work(self, image: Array, overlap: int | None, tiles_at_once: int | None) -> _Work:
        settings = self.settings
        pixels = check_picture(image, settings)
        inside = settings.overlap if overlap is None else check_overlap(overlap, settings)
        numbers = settings.channels * (settings.scale * settings.tile) ** 2
        least, most = self._bounds
        rows = (
            rows_at_once(numbers, least, most) if tiles_at_once is None else check_count("tiles_at_once", tiles_at_once)
        )
        planes = _planes(pixels, settings.channels)
        h, w = pixels.shape[:2]
        (height, columns), (width, lines) = _padded(h, settings, inside), _padded(w, settings, inside)
        return _Work(
            pixels=pixels,
            planes=planes,
            shape=(settings.scale * h, settings.scale * w, pixels.shape[2]),
            rows=reflected(h, height),
            columns=reflected(w, width),
            down=columns,
            across=lines,
            at_once=rows if most is None else min(rows, most),
            least=least,
        )

    def _bands(self, work: _Work, progress: Progress | None, cancel: Cancel | None) -> Iterator[Array]:
        """What each row of tiles makes, cut to the picture."""
        s, (height, width, channels) = self.settings.scale, work.shape
        total, done = len(work.down) * len(work.across) * len(work.planes), 0
        for down in work.down:
            top, bottom = s * down.first, min(s * down.last, height)
            if bottom <= top:
                break  # below the picture, where it was filled up
            band = np.empty((bottom - top, width, channels), dtype=work.pixels.dtype)
            _fill_constant(band, work)
            places = [(plane, across) for plane in work.planes for across in work.across]
            for group in chunks(len(places), work.at_once):
                if cancel is not None and cancel():
                    raise CancelledError(f"cancelled after {done} of {total} tiles")
                some = places[group]
                large = self._run(work, down, some)
                for (plane, across), tile in zip(some, large, strict=False):
                    left, right = s * across.first, min(s * across.last, width)
                    if right > left:
                        part = tile[
                            :,
                            top - s * down.start : bottom - s * down.start,
                            left - s * across.start : right - s * across.start,
                        ]
                        band[:, left:right, plane] = _as_picture(part, len(plane), self.settings, band.dtype)
                done += len(some)
                if progress is not None:
                    progress(done, total)
            yield band

    def _run(self, work: _Work, down: Span, places: list[tuple[list[int], Span]]) -> Array:
        """The engine on several tiles; where it takes no so few, the last is there several times."""
        settings = self.settings
        low, high = settings.value_range
        feeds = np.empty(
            (max(len(places), work.least), settings.channels, settings.tile, settings.tile), dtype=np.float32
        )
        rows = work.rows[down.start : down.start + settings.tile, None]
        for i, (plane, across) in enumerate(places):
            columns = work.columns[None, across.start : across.start + settings.tile]
            tile = work.pixels[rows, columns][:, :, plane].transpose(2, 0, 1).astype(np.float32)
            if work.pixels.dtype == np.uint8:
                tile /= np.float32(255)
            feeds[i] = tile * np.float32(high - low) + np.float32(low)
        feeds[len(places) :] = feeds[len(places) - 1]
        large = self.session.run({IMAGE: feeds})[LARGE_IMAGE]
        if not np.isfinite(large).all():
            raise EngineError("the model gave NaN or infinity", hint="run `aigc-run verify` on the bundle")
        return large


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A picture, and how it is cut.

    Attributes:
        pixels: [H, W, channels].
        planes: the channels that go through the engine together.
        shape: of the result.
        rows: of the picture, for each row of what is cut: beyond the picture by reflection.
        columns: likewise.
        down: tiles along the height.
        across: tiles along the width.
        at_once: tiles of one run, at most.
        least: tiles of one run, at least.
    """

    pixels: Array
    planes: tuple[list[int], ...]
    shape: tuple[int, int, int]
    rows: Array
    columns: Array
    down: tuple[Span, ...]
    across: tuple[Span, ...]
    at_once: int
    least: int


def check_picture(image: Array, settings: UpscaleSettings) -> Array:
    """A picture as [H, W, channels].

    Raises:
        InputError: another dtype or shape, nothing in it, NaN, or a result beyond any file's limits.
    """
    expected = "need [H, W] or [H, W, C] with C of 1 to 4, uint8, or float32 in [0, 1]"
    if not isinstance(image, np.ndarray):
        raise InputError(f"the image is a {type(image).__name__}", hint=expected)
    pixels = image[:, :, None] if image.ndim == 2 else image
    if pixels.dtype not in (np.uint8, np.float32) or pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4:
        raise InputError(f"the image is {image.dtype} {list(image.shape)}", hint=expected)
    if 0 in pixels.shape:
        raise InputError(f"the image has no pixels: its shape is {list(image.shape)}", hint=expected)
    if pixels.dtype == np.float32 and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise InputError(
            f"the image holds numbers from {pixels.min():g} to {pixels.max():g}",
            hint="must be in [0, 1]: divide what is in 0 to 255 by 255, or give uint8",
        )
    if settings.scale * max(pixels.shape[:2]) > MAX_SIDE:
        raise InputError(f"the image is {pixels.shape[1]} x {pixels.shape[0]}", hint="its result fits into no file")
    return pixels


def check_overlap(overlap: object, settings: UpscaleSettings) -> int:
    """An overlap that leaves something of a tile.

    Raises:
        InputError: another.
    """
    most = settings.max_overlap
    if isinstance(overlap, bool) or not isinstance(overlap, int) or not 0 <= overlap <= most:
        raise InputError(
            f"overlap is {shown(overlap)}", hint=f"must be from 0 to {most}: a tile is {settings.tile} pixels wide"
        )
    return overlap


def _check_memory(shape: tuple[int, int, int], itemsize: int) -> None:
    needed, free = math.prod(shape) * itemsize, available_memory()
    if free is not None and needed > free:
        raise InputError(
            f"the result of shape {list(shape)} takes {needed / 2**30:,.1f} GiB, {free / 2**30:,.1f} GiB are free",
            hint="stream() gives it row by row of tiles, and `aigc-run generate -o FILE.png` writes it so",
        )


def _padded(length: int, settings: UpscaleSettings, overlap: int) -> tuple[int, tuple[Span, ...]]:
    """A side that tiles cover, and the tiles."""
    whole = max(settings.tile, -(-length // settings.multiple_of) * settings.multiple_of)
    return whole, plan_spans(whole, settings.tile, overlap, settings.multiple_of)


def _planes(pixels: Array, channels: int) -> tuple[list[int], ...]:
    count = pixels.shape[2]
    colors = list(range(count - 1 if count in (2, 4) else count))
    planes = [colors] if channels == 3 else [[color] for color in colors]
    if len(colors) < count and pixels[..., -1].min() < pixels[..., -1].max():
        planes.append([count - 1])
    return tuple(planes)


def _fill_constant(band: Array, work: _Work) -> None:
    """Alpha that is the same everywhere stays that."""
    done = {channel for plane in work.planes for channel in plane}
    for channel in set(range(band.shape[2])) - done:
        band[:, :, channel] = work.pixels[0, 0, channel]


def _as_picture(tile: Array, channels: int, settings: UpscaleSettings, dtype: np.dtype[np.generic]) -> Array:
    """[C, h, w] as the engine gives it -> [h, w, channels]."""
    low, high = settings.value_range
    values = (tile - np.float32(low)) / np.float32(high - low)
    if channels < len(values):
        values = values.mean(axis=0, keepdims=True)
    picture = values.transpose(1, 2, 0)
    return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8) if dtype == np.uint8 else picture
