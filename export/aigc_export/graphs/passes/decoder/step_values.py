"""Values of a run that every layer reads: how many steps it adds, how many are held, where each step's angles are.

Shapes: as in `attention_pattern`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.edit import add_constant
from aigc_export.graphs.passes.decoder.cache_pattern import Append

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["StepValues"]


class StepValues:
    """Makes each of these values once, before the node that needs it first.

    Args:
        graph: that gets the nodes.
        source: [B, S, ...], whose sizes are the run's.
        cache: how the cache goes on.
        made: the values that earlier layers made.
    """

    def __init__(
        self, graph: ir.Graph, source: ir.Value, cache: Append, made: dict[tuple[object, ...], ir.Value]
    ) -> None:
        self._graph, self._source, self._cache, self._made = graph, source, cache, made
        shape, past = source.shape, cache.past.shape
        assert shape is not None
        assert past is not None
        self._run = (str(shape[0]), str(shape[1]), cache.length if cache.length is not None else str(past[2]))
        self._nodes: list[ir.Node] = []

    def take_nodes(self) -> list[ir.Node]:
        """The nodes that were made since they were taken last, in order."""
        taken, self._nodes = self._nodes, []
        return taken

    def held(self) -> ir.Value:
        """The number of steps that are held: int64 [1]."""
        if self._cache.length is not None:
            return self._cache.length
        return self._add("held", "Shape", [self._cache.past], start=2, end=3)

    def total(self) -> ir.Value:
        """The number of held and new steps: int64 [1]."""
        return self._add("total", "Add", [self.held(), self._steps()])

    def total_32(self) -> ir.Value:
        """The same in int32."""
        return self._add("total_32", "Cast", [self.total()], to=_INT32)

    def last_places(self) -> ir.Value:
        """The place of each row's last step: int32 [B]."""
        last = self._add("last", "Sub", [self.total(), self._integers("one_step", [1])])
        place = self._add("last_32", "Cast", [last], to=_INT32)
        return self._add("last_places", "Expand", [place, self._rows()])

    def table(self, factor: ir.Value) -> ir.Value:
        """Rotary factors [B, S, F] as a table [B * S + total, F]: those of row b and step s at place b * S + s.

        The operator wants as many places as there are steps; the others hold zeros that nothing looks up.
        """
        assert factor.shape is not None
        width = factor.shape[2]
        assert isinstance(width, int)
        flat = self._add((factor, "flat"), "Reshape", [factor, self._integers(f"rows_of_{width}", [-1, width])])
        before, beside = self._integers("two_zeros", [0, 0]), self._integers("one_zero", [0])
        pads = self._add("table_pads", "Concat", [before, self.total(), beside], axis=0)
        return self._add((factor, "table"), "Pad", [flat, pads])

    def table_places(self) -> ir.Value:
        """Where the table has the factors of each step: int64 [B, S]."""
        sizes = self._add("rows_and_steps", "Concat", [self._rows(), self._steps()], axis=0)
        count = self._add("count", "ReduceProd", [sizes], keepdims=0)
        zero, one = self._integers("zero_scalar", 0), self._integers("one_scalar", 1)
        counted = self._add("numbers", "Range", [zero, count, one])
        return self._add("table_places", "Reshape", [counted, sizes])

    def seen(self, bias: ir.Value) -> ir.Value:
        """What of a bias belongs to held and new steps: [B or 1, 1, S, total]; all of it where the cache grows."""
        if self._cache.length is None:
            return bias
        start, axis = self._integers("no_step", [0]), self._integers("last_of_four", [3])
        return self._add((bias, "seen"), "Slice", [bias, start, self.total(), axis])

    def _steps(self) -> ir.Value:
        return self._add("steps", "Shape", [self._source], start=1, end=2)

    def _rows(self) -> ir.Value:
        return self._add("rows", "Shape", [self._source], start=0, end=1)

    def _integers(self, name: str, numbers: int | Sequence[int]) -> ir.Value:
        return add_constant(self._graph, f"cache_{name}", np.array(numbers, dtype=np.int64))

    def _add(self, what: object, op_type: str, inputs: Sequence[ir.Value], **attributes: int) -> ir.Value:
        import onnx_ir as ir

        key = (*self._run, what)
        if key not in self._made:
            node = ir.node(op_type, inputs, attributes, name=f"cache_{len(self._made)}_{op_type}")
            node.outputs[0].name = f"{node.name}_value"
            self._nodes.append(node)
            self._made[key] = node.outputs[0]
        return self._made[key]


_INT32 = 6
"""ONNX's number of the type."""
