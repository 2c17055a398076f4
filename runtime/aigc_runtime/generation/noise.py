"""All noise of one request, drawn piece by piece: the numbers are those of whole draws, however they are cut.

A request for N images draws `torch.randn(N, C, H, W)` once for x_T, and for a stochastic sampler once more at every
step, all from one generator. Images that are made a few at a time need the same numbers without holding all of them:
each draw has a place of its own in the generator's stream, and its pieces are taken from there one after the other.
"""

from __future__ import annotations

import math

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.rng import BLOCK, TorchGenerator

__all__ = ["NoiseStream", "PiecewiseNormal"]

_PIECE = 2**20
"""Most numbers that are made in one go: the memory of a piece, 4 MiB."""


class PiecewiseNormal:
    """`generator.randn((n,))`, a piece at a time.

    Args:
        generator: where to draw from; nobody else may until all is taken.
        n: numbers in all.
    """

    def __init__(self, generator: TorchGenerator, n: int) -> None:
        self._generator = generator
        few = n < BLOCK
        self._kept = generator.randn((n,)) if few else np.empty(0, dtype=np.float32)
        self._unmade = 0 if few else n

    def take(self, count: int) -> Array:
        """The next `count` numbers, float32 [count]."""
        pieces, held = [self._kept], len(self._kept)
        while held < count:
            pieces.append(self._make(count - held))
            held += len(pieces[-1])
        numbers = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        self._kept = numbers[count:].copy()
        return numbers[:count]

    def _make(self, wanted: int) -> Array:
        """Whole blocks for `wanted` numbers; a last partial block is drawn anew over the one before it, so with it."""
        partial = self._unmade % BLOCK
        whole = self._unmade - partial - (BLOCK if partial else 0)
        piece = min(-(-wanted // BLOCK) * BLOCK, whole, _PIECE) or self._unmade
        self._unmade -= piece
        return self._generator.randn((piece,))

    def behind(self) -> TorchGenerator:
        """A generator that stands where all numbers are drawn: this one's own, once that is so."""
        if self._unmade == 0:
            return self._generator
        generator = self._generator.clone()
        generator.skip_randn(self._unmade)
        return generator


class NoiseStream:
    """The draws of a request, each of `total` numbers.

    Args:
        seed: of all of them.
        total: numbers in one draw.

    >>> whole = TorchGenerator(7).randn((100,))
    >>> noise = NoiseStream(7, 100)
    >>> bool(np.array_equal(whole, np.concatenate([noise.take(0, (30,)), noise.take(0, (70,))])))
    True
    """

    def __init__(self, seed: int, total: int) -> None:
        self._total = total
        self._draws = [PiecewiseNormal(TorchGenerator(seed), total)]

    def take(self, draw: int, shape: tuple[int, ...]) -> Array:
        """The next numbers of a draw, 0 being x_T: float32 of `shape`."""
        while len(self._draws) <= draw:
            self._draws.append(PiecewiseNormal(self._draws[-1].behind(), self._total))
        return self._draws[draw].take(math.prod(shape)).reshape(shape)
