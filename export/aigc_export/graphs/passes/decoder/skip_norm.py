"""A sum and the root-mean-square norm of it as one operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aigc_export.graphs.passes.decoder.pattern import (
    MICROSOFT,
    constant_of,
    equal_to,
    is_closed,
    made_by,
    reads_with_number,
    scalar_of,
    sizes_known,
)

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["fuse_skip_norms"]


def fuse_skip_norms(model: ir.Model) -> ir.Model:
    """Add to the residual stream and norm it in one operator; changes the model.

    Graph before: `x = a + b`, `y = x / Sqrt(ReduceMean(x^2) + eps) * g` (Zhang & Sennrich 2019, eq. 4);
    after: `y, _, _, x = com.microsoft::SkipSimplifiedLayerNormalization(a, b, g)`.

    1. a and b of the same three sizes, g a constant over the last of them, all float32: fused; x stays a value for
       whoever reads it.
    2. Two norms of one sum: the first is fused, the second reads its x. ONNX Runtime makes one operator of it itself,
       as it does of norms of what is no sum.
    3. A sum that is broadcast, a norm over other axes, a LayerNorm, a value inside the norm that something else reads:
       left as they are.

    Any opset from 18; the main graph.
    """
    for node in list(model.graph):
        found = _match(node) if node.op_type == "Mul" and node.graph is model.graph else None
        if found is not None:
            _replace(model.graph, found)
    return model


@dataclass(frozen=True, kw_only=True)
class _SkipNorm:
    added: ir.Node
    inner: Sequence[ir.Node]
    result: ir.Value
    gain: ir.Value
    epsilon: float


def _match(scaled: ir.Node) -> _SkipNorm | None:
    for normed, gain in (scaled.inputs, scaled.inputs[::-1]):
        divided = made_by(normed, "Div")
        if divided is None or gain is None or constant_of(gain) is None:
            continue
        root = made_by(divided.inputs[1], "Sqrt")
        sum_ = None if root is None else made_by(root.inputs[0], "Add")
        mean_and_epsilon = reads_with_number(sum_)
        mean = None if mean_and_epsilon is None else made_by(mean_and_epsilon[0], "ReduceMean")
        square = None if mean is None else made_by(mean.inputs[0], "Pow")
        x = divided.inputs[0]
        added = made_by(x, "Add")
        if root is None or sum_ is None or mean_and_epsilon is None or mean is None or square is None or added is None:
            continue
        inner = (square, mean, sum_, root, divided, scaled)
        is_square = square.inputs[0] is x and scalar_of(square.inputs[1]) == 2.0
        if is_square and _over_last_axis(mean) and _same_sizes(added, gain) and is_closed(inner, scaled.outputs):
            return _SkipNorm(added=added, inner=inner, result=scaled.outputs[0], gain=gain, epsilon=mean_and_epsilon[1])
    return None


def _over_last_axis(mean: ir.Node) -> bool:
    axes = mean.inputs[1] if len(mean.inputs) > 1 else None
    return mean.attributes.get_int("keepdims", 1) == 1 and (equal_to(axes, [-1]) or equal_to(axes, [2]))


def _same_sizes(added: ir.Node, gain: ir.Value) -> bool:
    import onnx_ir as ir

    sizes = [sizes_known(value) for value in added.inputs]
    is_float = all(v is not None and v.dtype == ir.DataType.FLOAT and v.const_value is None for v in added.inputs)
    if not is_float or gain.dtype != ir.DataType.FLOAT or sizes[0] is None or sizes[0] != sizes[1]:
        return False
    return len(sizes[0]) == 3 and sizes_known(gain) == sizes[0][-1:]


def _replace(graph: ir.Graph, found: _SkipNorm) -> None:
    import onnx_ir as ir

    summed, result = found.added.outputs[0], found.result
    fused = ir.node(
        "SkipSimplifiedLayerNormalization",
        [*found.added.inputs, found.gain],
        {"epsilon": found.epsilon},
        num_outputs=4,
        domain=MICROSOFT,
        name=f"{found.inner[-1].name}_skip",
    )
    fused.metadata_props.update(found.inner[-1].metadata_props)
    fused.outputs[1].name = fused.outputs[2].name = ""
    graph.insert_before(found.added, fused)
    for old, new in ((result, fused.outputs[0]), (summed, fused.outputs[3])):
        new.shape, new.type, name = old.shape, old.type, old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = f"{name}_before"
        new.name = name
    graph.remove([*reversed(found.inner), found.added], safe=True)
    graph.opset_imports[MICROSOFT] = 1
