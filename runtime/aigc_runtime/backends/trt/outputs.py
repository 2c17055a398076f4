"""Outputs whose size only the run itself tells: TensorRT asks for memory while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aigc_runtime.errors import EngineError

__all__ = ["Asked", "make_allocator"]


class Asked:
    """What the engine asked for in a run.

    Attributes:
        shapes: output -> shape that it turned out to have.
        failure: the first allocation that failed. It cannot be raised through the engine's own code.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.failure: EngineError | None = None

    def reset(self) -> None:
        """Before a run."""
        self.shapes, self.failure = {}, None


def make_allocator(module: Any, place: Callable[[str, int], int], asked: Asked) -> Any:
    """An object that TensorRT asks.

    Args:
        module: the library.
        place: (output, bytes) -> address.
        asked: is filled in.
    """

    class Allocator(module.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IOutputAllocator.__init__(self)

        def reallocate_output_async(self, name: str, _memory: Any, size: int, _alignment: int, _stream: Any) -> int:
            try:
                return place(name, size)
            except EngineError as err:
                asked.failure = asked.failure or err
                return 0  # no memory: the run fails

        def reallocate_output(self, name: str, memory: Any, size: int, alignment: int) -> int:
            return self.reallocate_output_async(name, memory, size, alignment, None)

        def notify_shape(self, name: str, shape: Any) -> None:
            asked.shapes[name] = tuple(shape)

    return Allocator()
