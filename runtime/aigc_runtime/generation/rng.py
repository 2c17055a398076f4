"""A generator of random numbers that repeats PyTorch's CPU generator in numpy.

The same seed gives the same noise, and so the same picture, with and without torch.

PyTorch draws from a 32-bit Mersenne Twister (Matsumoto & Nishimura 1998):

- `rand`: 24 bits of one word (float32) or 53 bits of two words (float64) over 2**24 or 2**53: bit for bit.
- `randint`: one word modulo the range, or two words where the range is 2**28 or more: bit for bit.
- `randn`: Box & Muller 1958. Below 16 elements in float64, with the second number of each pair kept for the next
  call; from 16 on in float32 over blocks of 16, a last partial block being drawn anew.

Bound on `randn`: PyTorch's float32 logarithm, sine and cosine depend on the instruction set that it picks at run
time. Measured over each of the 2**24 possible radii and angles and over 2**25 pairs of them: with AVX2 and AVX-512
every number is within 5 float32 ulps (`RANDN_MAX_ULPS`), and so within 7.2e-7. PyTorch's scalar path ("default",
other processors) multiplies the angle out in float64, so that it may round to the next float32: that moves a number
by at most 4.8e-7 (the step of float32 below 2 pi) times the largest radius, 5.77, or 2.8e-6 (`RANDN_MAX_ERROR`;
measured: 2.52e-6). Below 16 elements everything is float64, rounded once: within 1 ulp everywhere.
tests/runtime/generation/test_rng_vs_torch.py holds all three bounds.
"""

from __future__ import annotations

import copy
import math

import numpy as np

from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.io.printable import shown

__all__ = ["BLOCK", "RANDN_MAX_ERROR", "RANDN_MAX_ULPS", "TorchGenerator", "check_seed"]

RANDN_MAX_ULPS = 5
"""Largest distance of `randn` from PyTorch's where PyTorch runs on AVX2 or AVX-512, in float32 ulps."""

RANDN_MAX_ERROR = 2.8e-6
"""Largest distance of `randn` from PyTorch's on any instruction set, absolute."""

BLOCK = 16
"""Numbers that `randn` makes together; fewer are made one pair at a time."""
_WIDE_RANGE = 2**28
_SKIPPED = 2**20


def check_seed(seed: object) -> int:
    """Return `seed` if it is an integer from 0 to 2**64 - 1.

    Raises:
        InputError: anything else, booleans included.
    """
    value = as_integer(seed)
    if value is None or not 0 <= value < 2**64:
        raise InputError(f"seed is {shown(seed)}", hint="must be an integer from 0 to 2**64 - 1")
    return value


def _count(shape: tuple[int, ...]) -> int:
    """Number of elements of `shape`."""
    if not isinstance(shape, tuple) or not all(isinstance(n, (int, np.integer)) and n >= 0 for n in shape):
        raise InputError(f"shape is {shown(shape)}", hint="must be a tuple of integers of at least 0")
    return math.prod(int(n) for n in shape)


class TorchGenerator:
    """The stream of `torch.Generator("cpu").manual_seed(seed)`.

    Args:
        seed: 0 to 2**64 - 1. As in PyTorch, only the low 32 bits count.

    >>> TorchGenerator(0).rand((2,))
    array([0.4962566, 0.7682218], dtype=float32)
    """

    def __init__(self, seed: int) -> None:
        # numpy's legacy generator is the same Twister, seeded in the same way.
        self._twister = np.random.RandomState(check_seed(seed) & 0xFFFFFFFF)
        self._kept_normal: float | None = None

    def rand(self, shape: tuple[int, ...], dtype: str = "float32") -> Array:
        """Uniform in [0, 1): `torch.rand(shape, generator=g, dtype=dtype)`, bit for bit.

        Raises:
            InputError: a dtype other than float32 or float64, or a shape that is none (so for all methods).
        """
        n = _count(shape)
        if dtype == "float32":
            return (self._words32(n) & 0xFFFFFF).astype(np.float32).reshape(shape) * np.float32(2**-24)
        if dtype == "float64":
            return self._uniform53(n).reshape(shape)
        raise InputError(f"dtype is {shown(dtype)}", hint="valid: float32, float64")

    def randint(self, low: int, high: int, shape: tuple[int, ...]) -> Array:
        """Integers in [low, high): `torch.randint(low, high, shape, generator=g)`, bit for bit, int64.

        Raises:
            InputError: an empty range, or one that int64 does not hold.
        """
        if not all(isinstance(bound, (int, np.integer)) for bound in (low, high)):
            raise InputError(f"low is {shown(low)}, high is {shown(high)}", hint="must be integers")
        low, high = int(low), int(high)
        span = high - low
        if not (0 < span < 2**64 and low >= -(2**63) and high <= 2**63 - 1):
            raise InputError(
                f"low is {shown(low)}, high is {shown(high)}", hint="need low < high, both in the range of int64"
            )
        n = _count(shape)
        words = self._words64(n) if span >= _WIDE_RANGE else self._words32(n).astype(np.uint64)
        offset = (words % np.uint64(span)).astype(np.int64)
        return (offset + np.int64(low)).reshape(shape)

    def randn(self, shape: tuple[int, ...]) -> Array:
        """Standard normal float32: `torch.randn(shape, generator=g)`, within the bound of this module's docstring."""
        n = _count(shape)
        out = self._normal_few(n) if n < BLOCK else self._normal_many(n)
        return out.reshape(shape)

    def clone(self) -> TorchGenerator:
        """Another generator that stands where this one does."""
        return copy.deepcopy(self)

    def skip_randn(self, n: int) -> None:
        """Go on as `randn` of `n` numbers would, `BLOCK` at least, without making them."""
        words = n + (BLOCK if n % BLOCK else 0)
        while words > 0:
            self._words32(min(words, _SKIPPED))
            words -= _SKIPPED

    def _normal_few(self, n: int) -> Array:
        out = np.empty(n, dtype=np.float32)
        for i in range(n):
            if self._kept_normal is not None:
                out[i], self._kept_normal = self._kept_normal, None
                continue
            u1, u2 = self._uniform53(2)
            radius, angle = math.sqrt(-2 * math.log1p(-u2)), 2 * math.pi * u1
            self._kept_normal = radius * math.sin(angle)
            out[i] = radius * math.cos(angle)
        return out

    def _normal_many(self, n: int) -> Array:
        uniform = self.rand((n,))
        whole = n - n % BLOCK
        out = np.empty(n, dtype=np.float32)
        out[:whole] = _box_muller(uniform[:whole])
        if whole < n:
            out[n - BLOCK :] = _box_muller(self.rand((BLOCK,)))
        return out

    def _words32(self, n: int) -> Array:
        return self._twister.randint(0, 2**32, size=n, dtype=np.uint32)

    def _words64(self, n: int) -> Array:
        pairs = self._words32(2 * n).reshape(n, 2).astype(np.uint64)
        words: Array = (pairs[:, 0] << np.uint64(32)) | pairs[:, 1]
        return words

    def _uniform53(self, n: int) -> Array:
        mask = np.uint64(2**53 - 1)
        uniform: Array = (self._words64(n) & mask).astype(np.float64) * 2.0**-53
        return uniform


def _box_muller(uniform: Array) -> Array:
    """[16 k] uniforms -> [16 k] normals; in each block of 16 the first 8 give radii, the last 8 angles.

    The angle is rounded to float32 as PyTorch does; the functions are evaluated in float64 and rounded once, so that
    what remains is PyTorch's own error.
    """
    blocks = uniform.reshape(-1, 2, BLOCK // 2)
    u1, u2 = np.float32(1) - blocks[:, 0], blocks[:, 1]
    log = np.log(u1.astype(np.float64)).astype(np.float32)
    radius = np.sqrt(np.float32(-2) * log)
    angle = (np.float32(2 * math.pi) * u2).astype(np.float64)
    cosine, sine = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    return np.stack([radius * cosine, radius * sine], axis=1).reshape(-1)
