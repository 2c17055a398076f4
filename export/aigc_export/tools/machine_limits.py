"""How near a step comes to what the machine can do: to the rate at which it reads memory, and multiplies.

Neither figure is taken from a data sheet: both are measured with as many threads as the engine has. A step that reads
its weights at nearly the first, or multiplies at nearly the second, cannot become much faster by a better program, only
by fewer bits or less work (Williams, Waterman and Patterson 2009, "Roofline").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aigc_export.tools.timing import torch_threads

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["MachineLimits", "StepWork", "measure_limits", "multiplied_by", "weights_read"]

READ_BYTES = 2**29
"""More than the caches of most processors hold: where one holds it, the rate is that of the cache."""
SIDE = 2048
"""Of the square matrices that are multiplied."""
REPEATS = 5
LOOKUPS = ("Gather", "GatherBlockQuantized", "GatherElements", "GatherND")
"""Operators that read a few rows of their first input."""


@dataclass(frozen=True, kw_only=True)
class MachineLimits:
    """What a machine does at best, of several tries.

    Attributes:
        read_bytes_per_s: of memory that no cache holds.
        fp32_flops_per_s: of a product of two large matrices in float32, a multiplication and an addition being two.
    """

    read_bytes_per_s: float
    fp32_flops_per_s: float


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """What a step does.

    Attributes:
        seconds: its median.
        weight_bytes: that it reads, as they are stored; None where the engine's file does not say.
        flops: of its products and convolutions, as PyTorch's model has them; two for each multiply-accumulate.
    """

    seconds: float
    weight_bytes: int | None
    flops: int

    def read_share(self, limits: MachineLimits) -> float | None:
        """Of the rate at which memory is read; above 1 where a cache holds the weights."""
        return None if self.weight_bytes is None else self.weight_bytes / self.seconds / limits.read_bytes_per_s

    def flops_share(self, limits: MachineLimits) -> float:
        """Of the rate of products in float32; above 1 where fewer bits multiply faster."""
        return self.flops / self.seconds / limits.fp32_flops_per_s


def measure_limits(threads: int) -> MachineLimits:
    """Measure both rates on this machine; some seconds, and half a gigabyte."""
    import torch

    with torch_threads(threads), torch.inference_mode():
        numbers = torch.ones(READ_BYTES // 4)
        # The one of the two that is faster here: neither writes.
        reading = min(_best(numbers.sum), _best(numbers.amax))
        del numbers
        left, right = torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE)
        product = _best(lambda: left @ right)
    return MachineLimits(read_bytes_per_s=READ_BYTES / reading, fp32_flops_per_s=2 * SIDE**3 / product)


def _best(call: Callable[[], object]) -> float:
    call()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def multiplied_by(step: Callable[[], object]) -> int:
    """Operations of the products that PyTorch computes in one call."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def weights_read(file: Path) -> int:
    """Bytes of the constants that a run of an ONNX graph reads whole: all but tables of which it looks up rows.

    Args:
        file: of the graph; data beside it is not read.
    """
    import onnx_ir as ir

    sizes: dict[str, int] = {}
    for graph in _graphs(ir.load(file).graph):
        for node in graph:
            for index, value in enumerate(node.inputs):
                tensor = None if value is None else value.const_value
                if value is not None and tensor is not None and not (index == 0 and node.op_type in LOOKUPS):
                    sizes[str(value.name)] = tensor.nbytes
    return sum(sizes.values())


def _graphs(graph: ir.Graph) -> Iterable[ir.Graph]:
    """A graph and those inside its nodes."""
    import onnx_ir as ir

    yield graph
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _graphs(attribute.as_graph())
            elif attribute.type == ir.AttributeType.GRAPHS:
                for inner in attribute.as_graphs():
                    yield from _graphs(inner)
