"""What a site takes in either precision: a graph of that site alone, timed in the engine.

Sites of one kind and size are timed once. The conversions at a site's ends are in the time of its low precision, as
they are wherever its neighbours are float.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from aigc_calibration.emit import Form, emit
from aigc_calibration.floatgraph import Feeds, graph_digest, open_graph
from aigc_calibration.plan import OpPlan, QuantizationPlan
from aigc_calibration.sites import Site, find_sites
from aigc_calibration.weights import QuantizedWeight
from aigc_runtime.tensors import Array

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["LONE_RESULT", "lone_site", "site_shapes", "time_sites"]

ROUNDS = 7
SECONDS_PER_ROUND = 0.002
LONE_RESULT = "lone_result"

Weights = Mapping[str, QuantizedWeight]


def site_shapes(model: ir.Model, feeds: Feeds) -> dict[str, Array]:
    """The activations of every site on one run, by name."""
    wanted = sorted({a for s in find_sites(model) for a in s.activations})
    return {**feeds, **open_graph(model, expose=wanted)(feeds)}


def lone_site(model: onnx.ModelProto, site: Site, values: Mapping[str, Array]) -> ir.Model:
    """A graph of one site: its activations in, its result out."""
    import onnx
    import onnx_ir as ir
    from onnx import helper

    node = next(n for n in model.graph.node if n.name == site.node)
    constants = [t for t in model.graph.initializer if t.name in node.input]
    inputs = [
        helper.make_tensor_value_info(a, onnx.TensorProto.FLOAT, values[a].shape)
        for a in dict.fromkeys(site.activations)
    ]
    # A result that leaves the graph is never quantised: it goes through one more operator.
    last = helper.make_node("Identity", [site.output], [LONE_RESULT], "lone")
    rank = len(values[site.activations[0]].shape)
    output = helper.make_tensor_value_info(LONE_RESULT, onnx.TensorProto.FLOAT, [None] * rank)
    graph = helper.make_graph([node, last], "site", inputs, [output], constants)
    made = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    return ir.from_proto(onnx.shape_inference.infer_shapes(made))


def time_sites(
    model: ir.Model,
    low: tuple[QuantizationPlan, Weights],
    high: tuple[QuantizationPlan, Weights] | None,
    form: Form,
    values: Mapping[str, Array],
    *,
    remember: Callable[[str, Callable[[], tuple[float, float]]], tuple[float, float]],
) -> dict[str, tuple[float, float]]:
    """Node -> (ms in low precision, ms in high precision), medians of alternating rounds on one thread.

    Args:
        model: the float graph.
        low: plan and weights.
        high: the same for the higher precision; None: float.
        form: of the engine.
        values: activations of every site, of the sizes that count.
        remember: called as remember(what is timed, measure); may know the answer.
    """
    import onnx_ir as ir

    proto = ir.to_proto(model)
    sites = {s.node: s for s in find_sites(model)}
    raised = {} if high is None else {op.node: op for op in high[0].quantised()}
    known: dict[str, tuple[float, float]] = {}
    found = {}
    for op in low[0].quantised():
        site = sites[op.node]
        key = _kind(model, site, op, raised.get(op.node), values)
        if key not in known:

            def measure(site: Site = site, op: OpPlan = op) -> tuple[float, float]:
                alone = lone_site(proto, site, values)
                feeds = {a: values[a] for a in site.activations}
                graphs = [_emit_lone(alone, op, *low, form)]
                up = raised.get(op.node)
                graphs.append(alone if up is None or high is None else _emit_lone(alone, up, *high, form))
                return _alternate([open_graph(g, threads=1) for g in graphs], feeds)

            known[key] = remember(key, measure)
        found[op.node] = known[key]
    return found


def _kind(model: ir.Model, site: Site, op: OpPlan, up: OpPlan | None, values: Mapping[str, Array]) -> str:
    node = next(n for n in model.graph if n.name == site.node)
    attributes = sorted(f"{k}={v.value!r}" for k, v in node.attributes.items())
    shapes = [values[a].shape for a in site.activations]
    rungs = f"{op.precision} {op.block} / {'float' if up is None else f'{up.precision} {up.block}'}"
    ends = f"bias {site.bias is not None}, result {op.output is not None}"
    return f"{site.op_type} {attributes} {shapes} x {site.shape}, {ends}, {rungs}"


def _emit_lone(alone: ir.Model, op: OpPlan, plan: QuantizationPlan, weights: Weights, form: Form) -> ir.Model:
    named = {*op.activations, op.output}
    own = replace(
        plan,
        graph_sha256=graph_digest(alone),
        ops=(op,),
        tensors=tuple(t for t in plan.tensors if t.name in named),
    )
    return emit(alone, own, weights, form)


def _alternate(runs: list[Callable[[Feeds], Mapping[str, Array]]], feeds: Feeds) -> tuple[float, float]:
    counts = []
    for run in runs:
        run(feeds)
        started = time.perf_counter()
        run(feeds)
        counts.append(max(3, min(200, int(SECONDS_PER_ROUND / max(time.perf_counter() - started, 1e-6)))))
    medians: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for seconds, run, count in zip(medians, runs, counts, strict=True):
            started = time.perf_counter()
            for _ in range(count):
                run(feeds)
            seconds.append((time.perf_counter() - started) / count * 1e3)
    return statistics.median(medians[0]), statistics.median(medians[1])
