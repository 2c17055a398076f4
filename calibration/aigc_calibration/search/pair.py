"""A pair of precisions over one graph: every site runs in the low one or in the high one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from aigc_calibration.collect import Statistics
from aigc_calibration.config import QuantConfig
from aigc_calibration.digest import graph_digest
from aigc_calibration.formats import QdqFormat
from aigc_calibration.lookups import with_lookups
from aigc_calibration.matrices import from_matrix
from aigc_calibration.plan import QuantizationPlan
from aigc_calibration.prepare import copy_graph
from aigc_calibration.search.toggle import toggle_graph
from aigc_calibration.sites import find_sites
from aigc_calibration.weights import QuantizedWeight

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["PrecisionPair"]


@dataclass(frozen=True, kw_only=True)
class PrecisionPair:
    """Two plans for one graph.

    Attributes:
        name: such as `int8 / float`.
        graph: the float graph, transforms applied.
        low: plan in the low precision.
        low_weights: its codes.
        high: plan in the high precision; None: float.
        high_weights: its codes.
        form: of the engine.
        config: of tables that are looked up: size of a block, and what stays float.
        statistics: that the low plan was made from; None: it needed no samples.
    """

    name: str
    graph: ir.Model
    low: QuantizationPlan
    low_weights: Mapping[str, QuantizedWeight]
    high: QuantizationPlan | None
    high_weights: Mapping[str, QuantizedWeight]
    form: QdqFormat
    config: QuantConfig = field(default_factory=QuantConfig)
    statistics: Statistics | None = None

    @cached_property
    def together(self) -> tuple[tuple[str, ...], ...]:
        """The sites that the low plan quantizes, in groups that take one precision.

        Weights alone that multiply one value are one product in an engine where they have one precision; any other site
        is a group of its own.
        """
        reads = {site.node: site.activations[0] for site in find_sites(self.graph)}
        groups: dict[str, list[str]] = {}
        for op in self.low.quantized():
            groups.setdefault(op.node if op.block is None else f"reads {reads[op.node]}", []).append(op.node)
        return tuple(map(tuple, groups.values()))

    @cached_property
    def tables(self) -> dict[str, QuantizedWeight]:
        """Codes of the tables that are looked up, where no product's are read."""
        return with_lookups(self.graph, self.low, {}, self.config, self.form)[1]

    def mix(self, kept_high: Mapping[str, str]) -> tuple[QuantizationPlan, dict[str, QuantizedWeight]]:
        """Plan a mix: the sites in `kept_high` (node -> why) in the high precision, all others in the low one."""
        plan, weights = self._mix_products(kept_high)
        return with_lookups(self.graph, plan, {**self.tables, **weights}, self.config, self.form)

    def _mix_products(self, kept_high: Mapping[str, str]) -> tuple[QuantizationPlan, dict[str, QuantizedWeight]]:
        if self.high is None:
            return self.low.with_float(kept_high), dict(self.low_weights)
        above = {op.node: op for op in self.high.ops}
        ops, weights = [], dict(self.low_weights)
        for op in self.low.ops:
            if op.node not in kept_high or op.precision == "float":
                ops.append(op)
                continue
            ops.append(replace(above[op.node], why=kept_high[op.node]))
            if op.weight is not None and op.weight in self.high_weights:
                weights[op.weight] = self.high_weights[op.weight]
        return replace(self.low, ops=tuple(ops)), weights

    def toggled(self) -> ir.Model:
        """Build the toggle graph: with every switch off it computes in the high precision."""
        if self.high is None:
            return toggle_graph(self.graph, self.low, self.low_weights, self.form)
        import onnx_ir as ir

        base = copy_graph(self.graph)
        sites = {s.weight: s for s in find_sites(base)}
        for name, weight in self.high_weights.items():
            site = sites[name]
            values = weight.dequantize()
            values = values if weight.block is None else from_matrix(site, values)
            base.graph.initializers[name].const_value = ir.tensor(values, name=name)
        low = replace(self.low, graph_sha256=graph_digest(base))
        return toggle_graph(base, low, self.low_weights, self.form)
