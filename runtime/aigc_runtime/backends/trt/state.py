"""Carried state that stays on the device: a KV cache is written by one run and read by the next, and never copied."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from aigc_runtime.backends.trt.buffers import DeviceBuffer
from aigc_runtime.backends.trt.cuda import Cuda
from aigc_runtime.backends.trt.interface import Port
from aigc_runtime.core.closing import close_all
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.state import check_length, check_selection
from aigc_runtime.core.tensors import StateSpec

__all__ = ["Carried", "Owner", "Pieces", "StateMemory", "TrtState"]


class Pieces(NamedTuple):
    """A copy of `height` pieces of `width` bytes on the device; their beginnings are a pitch apart."""

    target: int
    target_pitch: int
    source: int
    source_pitch: int
    width: int
    height: int


class Owner(Protocol):
    """A session, as its states see it."""

    def copy(self, pieces: Callable[[], Sequence[Pieces]]) -> None:
        """Copy what `pieces` says, which allocates memory, within the device's memory."""
        ...


class Carried:
    """One carried tensor.

    A run reads `past` and writes `present`, which may be longer, and the two change places. Where the engine writes in
    place there is only `past`: a `buffer` alone, and not every one, since an engine may read a place of its input after
    it has written that place of its output.
    """

    def __init__(self, spec: StateSpec, ports: Mapping[str, Port], interface: Interface, cuda: Cuda) -> None:
        self.spec = spec
        self._itemsize = ports[spec.input].type.itemsize
        self._most = spec.room(0, interface.dims_by_name)
        self._cuda = cuda
        self._in_place = ports[spec.output].alias is not None
        self.past = DeviceBuffer(cuda)
        self.present = self.past if self._in_place else DeviceBuffer(cuda)

    def shape(self, batch: int, length: int) -> tuple[int, ...]:
        """Of the tensor that holds `length` steps."""
        return self.spec.shape_at(batch, length)

    def _bytes(self, batch: int, length: int) -> int:
        return math.prod(self.shape(batch, length)) * self._itemsize

    def allocate(self, batch: int) -> int:
        """Memory for a state without steps; returns its bytes, all of which must be zero."""
        size = self._bytes(batch, 0)
        self.past.require(size)
        if self.spec.behavior.is_steady:
            self.present.require(size)
        return size

    def place(self, batch: int, length: int) -> int:
        """Where the engine writes the tensor of `length` steps.

        Memory doubles when it is too small, up to what the longest state needs, so that it is seldom allocated.
        """
        doubled = 2 * max(self.past.size, self.present.size)
        most = doubled if self._most is None else self._bytes(batch, self._most)
        return self.present.require(self._bytes(batch, length), spare=min(doubled, most))

    def advance(self) -> None:
        """What was written is what the next run reads."""
        self.past, self.present = self.present, self.past

    def first_steps(self, batch: int, held: int, left: int) -> list[Pieces]:
        """The copies that put the first `left` of `held` steps of what grows into `present`."""
        shape, axis = self.shape(batch, held), self.spec.axis
        if self.spec.behavior.is_steady or axis is None:
            return []
        step = math.prod(shape[axis + 1 :]) * self._itemsize
        outer = math.prod(shape[:axis])
        target = self.present.require(outer * left * step)
        return [Pieces(target, left * step, self.past.address, held * step, left * step, outer)] if left else []

    def chosen_rows(self, batch: int, held: int, rows: Sequence[int]) -> list[Pieces]:
        """The copies that put rows into `present`, which is memory of its own from now on."""
        shape, axis = self.shape(batch, held), self.spec.batch_axis
        row = math.prod(shape[axis + 1 :]) * self._itemsize
        outer = math.prod(shape[:axis])
        if self.present is self.past:
            self.present = DeviceBuffer(self._cuda)
        target = self.present.require(outer * len(rows) * row)
        if not row * outer:
            return []
        return [
            Pieces(target + i * row, len(rows) * row, self.past.address + taken * row, batch * row, row, outer)
            for i, taken in enumerate(rows)
        ]

    def settle(self, *, copied: bool) -> None:
        """End a copy into `present`: the next run reads it, and an engine that writes in place writes there."""
        if copied:
            self.advance()
        if self._in_place and self.present is not self.past:
            self.present.close()
            self.present = self.past

    def close(self) -> None:
        """Give the memory back."""
        close_all([self.past.close, self.present.close])


class TrtState:
    """Carried state of one generation.

    Args:
        owner: the session that made it.
        batch: rows.
        tensors: with their memory.
    """

    def __init__(self, owner: Owner, batch: int, tensors: Sequence[Carried]) -> None:
        self.owner, self.batch, self.length = owner, batch, 0
        self.tensors = tuple(tensors)

    @property
    def specs(self) -> tuple[StateSpec, ...]:
        """Its tensors."""
        return tuple(tensor.spec for tensor in self.tensors)

    def truncate(self, length: int) -> None:
        """Forget all steps but the first `length`; see `State.truncate`."""
        left = check_length(self.specs, self.length, length)
        if left < self.length:
            moved = [tensor for tensor in self.tensors if not tensor.spec.behavior.is_steady]
            self._copy(moved, lambda tensor: tensor.first_steps(self.batch, self.length, left))
        self.length = left

    def select(self, rows: Sequence[int]) -> None:
        """Hold these rows; see `State.select`."""
        selected = check_selection(rows, self.batch)
        if selected == list(range(self.batch)):
            return
        self._copy(self.tensors, lambda tensor: tensor.chosen_rows(self.batch, self.length, selected))
        self.batch = len(selected)

    def _copy(self, tensors: Sequence[Carried], pieces: Callable[[Carried], list[Pieces]]) -> None:
        copied = False
        try:
            self.owner.copy(lambda: [piece for tensor in tensors for piece in pieces(tensor)])
            copied = True
        finally:
            for tensor in tensors:
                tensor.settle(copied=copied)

    def advance(self, steps: int) -> None:
        """A run succeeded and added `steps`."""
        for tensor in self.tensors:
            tensor.advance()
        self.length += steps


class StateMemory:
    """The memory of all states of a session.

    A state has no `close`: it ends when nobody holds it, which may be at any moment and in any thread. What it held is
    noted then and freed at a moment when this session may call CUDA.
    """

    def __init__(self) -> None:
        self._held: dict[int, Sequence[Carried]] = {}
        self._ended: list[int] = []
        self._next = 0
        self._lock = threading.Lock()

    def add(self, tensors: Sequence[Carried]) -> Callable[[], None]:
        """Note the tensors of a new state; returns what is to be called when it ends."""
        with self._lock:
            self._next += 1
            key, ended = self._next, self._ended
            self._held[key] = tensors
        return lambda: ended.append(key)  # no lock: it may be called while this thread holds it

    def free_ended(self) -> None:
        """Free the memory of states that nobody holds any more."""
        with self._lock:
            while self._ended:
                close_all([tensor.close for tensor in self._held.pop(self._ended.pop(), ())])

    def close(self) -> None:
        """Free everything."""
        with self._lock:
            tensors = [tensor for held in self._held.values() for tensor in held]
            self._held = {}
            close_all([tensor.close for tensor in tensors])
