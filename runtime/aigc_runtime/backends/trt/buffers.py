"""Memory that is kept from run to run and only ever grows, on the device and pinned on the host."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable

import numpy as np

from aigc_runtime.backends.trt.cuda import Cuda
from aigc_runtime.core.tensors import Array

__all__ = ["DeviceBuffer", "HostBuffer"]


class _Buffer:
    """`size` bytes at `address`; none at first. Not for several threads at once."""

    def __init__(self, allocate: Callable[[int], int], release: Callable[[int], None]) -> None:
        self._allocate, self._release = allocate, release
        self.address = self.size = 0

    def fits(self, size: int) -> bool:
        """Whether it holds that many bytes without moving. An empty tensor needs an address, too: one byte."""
        return 0 < max(1, size) <= self.size

    def require(self, size: int, *, spare: int = 0) -> int:
        """An address with room for `size` bytes; what was there is lost if it moves.

        Args:
            size: bytes that are needed.
            spare: total bytes to allocate if it moves, if that is more.

        Raises:
            CudaError: no memory. The buffer is empty then, and can be asked again.
        """
        if not self.fits(size):
            self.close()
            wanted = max(1, size, spare)
            self.address = self._allocate(wanted)
            self.size = wanted
        return self.address

    def close(self) -> None:
        """Give the memory back. Nothing queued may still use it."""
        address, self.address, self.size = self.address, 0, 0
        if address:
            self._release(address)


class DeviceBuffer(_Buffer):
    """Memory on the device."""

    def __init__(self, cuda: Cuda) -> None:
        super().__init__(cuda.malloc, cuda.free)


class HostBuffer(_Buffer):
    """Pinned memory on the host."""

    def __init__(self, cuda: Cuda) -> None:
        super().__init__(cuda.malloc_host, cuda.free_host)

    def view(self, shape: tuple[int, ...], dtype: str) -> Array:
        """The first bytes as an array; valid until the buffer moves or closes."""
        count = math.prod(shape)
        if count == 0:
            return np.empty(shape, dtype)
        raw = (ctypes.c_uint8 * (count * np.dtype(dtype).itemsize)).from_address(self.address)
        array: Array = np.frombuffer(memoryview(raw), dtype=dtype, count=count).reshape(shape)
        return array
