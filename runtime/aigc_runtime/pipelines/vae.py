"""Latents to pictures and back, by the engines of an autoencoder.

Shapes: N pictures, C channels of a latent, h and w its sides, f pixels along a side of a latent.

A latent that is larger than the engine takes, or than memory should hold at once, is decoded in tiles of one size that
overlap. A decoder looks at all of its input, if by its norms alone, so that neighbors differ where they meet: there the
weight of one falls as that of the other grows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError, InputError
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.arguments import batch_bounds, check_count
from aigc_runtime.pipelines.text_to_image_settings import IMAGE, LATENT, MEAN, STD
from aigc_runtime.pipelines.tiles import plan_spans

__all__ = ["check_tile", "decode", "encode", "run_rows"]

MAX_WHOLE = 96
"""The longest side of a latent that is decoded as a whole where nobody says: attention over all of it takes 4 (h w)^2
bytes, 340 MB here.
"""
TILE = 64
"""The side of a tile where nobody says: what most models were trained on."""
OVERLAP = 4
"""One in so many of a tile's rows also belongs to the tile before."""


def run_rows(session: Session, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run an engine on any number of rows: in as many runs as it needs, the last filled up with its last row."""
    name, array = next(iter(feeds.items()))
    least, most = batch_bounds(session, name)
    at_once = 1 if most is None else max(1, most)
    results: list[dict[str, Array]] = []
    for start in range(0, len(array), max(least, at_once)):
        some = {key: value[start : start + max(least, at_once)] for key, value in feeds.items()}
        count = len(some[name])
        if count < least:
            some = {key: np.concatenate([v, np.repeat(v[-1:], least - count, axis=0)]) for key, v in some.items()}
        results.append({key: value[:count] for key, value in session.run(some).items()})
    return {key: np.concatenate([result[key] for result in results]) for key in results[0]}


def check_tile(tile: object, session: Session, size: tuple[int, int]) -> int | None:
    """The side of the tiles that latents are decoded in; None for none.

    Args:
        tile: that is asked for; None chooses, and 0 means none.
        session: of the decoder.
        size: (h, w) of the latents.

    Raises:
        InputError: no such side, or one that the engine does not take.
    """
    if tile is None:
        if _takes(session, size) and max(size) <= MAX_WHOLE:
            return None
        largest = _largest(session)
        side = TILE if largest is None else min(TILE, largest)
    elif isinstance(tile, int) and not isinstance(tile, bool) and tile == 0:
        if not _takes(session, size):
            raise InputError(
                f"tile is 0, and the decoder takes no latent of {size[0]} x {size[1]}",
                hint="leave it out, or name the side of a tile",
            )
        return None
    else:
        side = check_count("tile", tile)
        if side >= max(size) and _takes(session, size):
            return None
    side = min(side, *size)
    if not _takes(session, (side, side)):
        raise InputError(
            f"the decoder takes no tiles of {shown(side)}, in which latents of {size[0]} x {size[1]} would be decoded",
            hint=f"it takes {_said(session)}: ask for another size, or another tile",
        )
    return side


def decode(session: Session, latents: Array, scale: int, tile: int | None) -> Array:
    """Latents [N, C, h, w] as the decoder takes them -> [N, 3, f h, f w] float32, about -1 to 1.

    Args:
        session: of the decoder.
        latents: divided by the scaling factor already.
        scale: f.
        tile: side of the tiles; None for none.

    Raises:
        EngineError: it failed, or gave NaN or infinity.
    """
    # One picture at a time: the largest activations of a decoder have some hundred times the picture's numbers.
    parts = [_decode_tiled(session, latents[i : i + 1], scale, tile) for i in range(len(latents))]
    return np.concatenate(parts)


def _decode_tiled(session: Session, latent: Array, scale: int, tile: int | None) -> Array:
    if tile is None:
        return _decode_one(session, latent)
    h, w = latent.shape[2:]
    overlap = tile // OVERLAP
    down, across = (plan_spans(length, tile, overlap // 2) for length in (h, w))
    total: Array = np.zeros((1, 3, scale * h, scale * w), dtype=np.float32)
    rows, columns = (_weights([s.start for s in spans], tile, scale) for spans in (down, across))
    for i, top in enumerate(down):
        for j, left in enumerate(across):
            part = latent[:, :, top.start : top.start + tile, left.start : left.start + tile]
            picture = _decode_one(session, np.ascontiguousarray(part))
            y, x = scale * top.start, scale * left.start
            weight = rows[i][:, None] * columns[j][None, :]
            total[:, :, y : y + scale * tile, x : x + scale * tile] += weight * picture
    return total


def _weights(starts: list[int], tile: int, scale: int) -> list[Array]:
    """How much of each tile is taken along an axis: float32 [f tile] each, all of them together 1 at every pixel."""
    side, length = scale * tile, scale * (starts[-1] + tile)
    ramps: list[Array] = []
    total = np.zeros(length)
    for k, start in enumerate(starts):
        at = np.arange(side) + 0.5
        ramp = np.ones(side)
        if k > 0 and (shared := scale * (starts[k - 1] + tile - start)):
            ramp = np.minimum(ramp, at / shared)
        if k + 1 < len(starts) and (shared := scale * (start + tile - starts[k + 1])):
            ramp = np.minimum(ramp, (side - at) / shared)
        total[scale * start : scale * start + side] += ramp
        ramps.append(ramp)
    return [
        (ramp / total[scale * start : scale * start + side]).astype(np.float32)
        for ramp, start in zip(ramps, starts, strict=True)
    ]


def _decode_one(session: Session, latent: Array) -> Array:
    picture = run_rows(session, {LATENT: latent})[IMAGE]
    if not np.isfinite(picture).all():
        raise EngineError("the decoder gave NaN or infinity", hint="run `aigc-run verify` on the bundle")
    return picture


def encode(session: Session, picture: Array) -> tuple[Array, Array | None]:
    """A picture [1, 3, f h, f w], -1 to 1 -> mean and deviation of its latents, [1, C, h, w]; None for no deviation.

    Raises:
        EngineError: it failed, or gave NaN or infinity.
    """
    results = run_rows(session, {IMAGE: picture})
    if not all(np.isfinite(result).all() for result in results.values()):
        raise EngineError("the encoder gave NaN or infinity", hint="run `aigc-run verify` on the bundle")
    return results[MEAN], results.get(STD)


def _sides(session: Session) -> list[int | str]:
    spec = session.interface.input(LATENT)
    assert spec is not None
    return [side if isinstance(side, int) else str(side) for side in spec.shape[2:]]


def _said(session: Session) -> str:
    """The sides that the decoder takes, in words."""
    said = []
    for side in _sides(session):
        dim = None if isinstance(side, int) else session.interface.dim(side)
        if dim is None:
            said.append(str(side))
        else:
            said.append(f"{dim.min} to {'any' if dim.max is None else dim.max} in steps of {dim.multiple_of}")
    return " x ".join(said)


def _takes(session: Session, size: tuple[int, int]) -> bool:
    for side, wanted in zip(_sides(session), size, strict=True):
        if isinstance(side, int):
            if side != wanted:
                return False
        elif (dim := session.interface.dim(side)) is not None and dim.nearest(wanted) != wanted:
            return False
    return True


def _largest(session: Session) -> int | None:
    """The longest side of a square that the decoder takes; None where there is no end."""
    bounds = []
    for side in _sides(session):
        if isinstance(side, int):
            bounds.append(side)
        elif (dim := session.interface.dim(side)) is not None and dim.max is not None:
            bounds.append(dim.max)
    return min(bounds) if bounds else None
