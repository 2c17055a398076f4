"""A transposed convolution as what it is: a convolution for each phase of its result.

    ConvTranspose(x, W, b)  ->  Slice(interleave(Conv(x, W', b')))

Row o of the result, before its padding is cut off, is o = q s + r, with the stride s and the phase r < s. Tap k of the
kernel brings row i of the input to row i s + k, so that k = t s + r and i = q - t: row q of phase r is a convolution
of x with the taps W[r], W[s + r], ..., in reverse. All s s phases of an output channel are channels of one Conv, of
ceil(k / s) taps; what the kernel lacks to whole strides is zeros.

What puts the phases side by side: where the width of x is known and there is one group, steps that move whole pixels,
with the channels last, as ONNX Runtime keeps codes between 8-bit convolutions: columns that follow each other are but
read so (Reshape), and rows are a Transpose that leaves the M channels of a pixel together. Elsewhere DepthToSpace
(CRD), which takes longer (benchmarks/phases.py). Cases:

1. Two sides, both of the same stride; no dilation, `auto_pad` or `output_shape`; pads below the size of the kernel. Any
   groups and `output_padding`, any size of the input, which need not be known.
2. Whole strides of the pads are padding that the Conv lacks; the rest is cut off by Slice.
3. Stride 1: the Conv alone, with the taps in reverse.
4. An input that is known to be 1 x 1: its stride is whatever the kernel is, so that no tap meets padding.
5. The weight is a constant that nothing else reads, and so is the bias, if there is one, but for its readers.
6. Anything else is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_calibration.edit import add_constant
from aigc_calibration.plan import OpPlan, QuantizationPlan
from aigc_calibration.weights import QuantizedWeight
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Phases", "by_phases", "phases_of", "plan_by_phases"]


@dataclass(frozen=True, kw_only=True)
class Phases:
    """The sizes of the Conv and of what follows it.

    Attributes:
        stride: s, of the phases.
        taps: of each phase, per side.
        pads: of the Conv: top, left, bottom, right.
        crop: rows and columns that are cut off: top, left, bottom, right.
        groups: of both convolutions.
        width: of the result before it is cut, where whole pixels are moved; None: DepthToSpace.
    """

    stride: int
    taps: tuple[int, int]
    pads: tuple[int, int, int, int]
    crop: tuple[int, int, int, int]
    groups: int
    width: int | None

    def weight(self, values: Array) -> Array:
        """[C, M / groups, kernel] -> [M s s, C / groups, taps], in any type.

        In the order of DepthToSpace; or, of whole pixels, [s s M, C, taps]: columns of a phase, its rows, channels.
        """
        s, (down, right) = self.stride, self.taps
        c, m, rows, columns = values.shape
        whole = np.zeros((c, m, down * s, right * s), dtype=values.dtype)
        whole[:, :, :rows, :columns] = values
        split = whole.reshape(self.groups, c // self.groups, m, down, s, right, s)[:, :, :, ::-1, :, ::-1]
        if self.width is not None:  # [C, M, taps, s, taps, s] -> [s, s, M, C, taps, taps]
            return np.ascontiguousarray(split[0].transpose(5, 3, 1, 0, 2, 4).reshape(-1, c, down, right))
        # [groups, C / groups, M / groups, taps, s, taps, s] -> [groups, M / groups, s, s, C / groups, taps, taps]
        made = split.transpose(0, 2, 4, 6, 1, 3, 5).reshape(-1, c // self.groups, down, right)
        return np.ascontiguousarray(made)

    def channels(self, values: Array) -> Array:
        """One number for each output channel, of all or of a group: [M] or [M / groups] -> [M s s]."""
        return np.repeat(values, self.stride**2) if self.width is None else np.tile(values, self.stride**2)

    def scales(self, values: Array) -> Array:
        """One number for each output channel of the weight, [M / groups] -> [M s s]."""
        return self.channels(np.tile(values, self.groups))


def phases_of(node: ir.Node) -> Phases | None:
    """The phases of a node that is one of the cases; None for every other."""
    if node.op_type != "ConvTranspose":
        return None
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if weight is None or weight.const_value is None or len(list(weight.uses())) > 1:
        return None
    kernel, given = weight.const_value.numpy().shape[2:], node.attributes
    if len(kernel) != 2 or (bias is not None and bias.const_value is None) or "output_shape" in given:
        return None
    strides, dilations = given.get_ints("strides", [1, 1]), given.get_ints("dilations", [1, 1])
    pads, added = given.get_ints("pads", [0] * 4), given.get_ints("output_padding", [0, 0])
    if strides[0] != strides[1] or list(dilations) != [1, 1] or given.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    if not all(0 <= pad < kernel[index % 2] for index, pad in enumerate(pads)):
        return None
    source = node.inputs[0]
    pixel = source is not None and source.shape is not None and list(source.shape)[2:] == [1, 1]
    s = max(kernel) if pixel else strides[0]
    taps = (-(-kernel[0] // s), -(-kernel[1] // s))
    # What is left of a kernel that is put on the last row or column, and the whole strides that cover it.
    left_over = [kernel[side] - pads[side + 2] + added[side] for side in (0, 1)]
    strides_over = [-(-rest // s) for rest in left_over]
    ends = [whole * s - rest for whole, rest in zip(strides_over, left_over, strict=True)]
    padded = (taps[0] - 1 - pads[0] // s, taps[1] - 1 - pads[1] // s, strides_over[0] - 1, strides_over[1] - 1)
    groups, columns = given.get_int("group", 1), None if source is None or source.shape is None else source.shape[3]
    width = s * (columns + padded[1] + padded[3] - taps[1] + 1) if isinstance(columns, int) else None
    return Phases(
        stride=s,
        taps=taps,
        pads=padded,
        crop=(pads[0] % s, pads[1] % s, ends[0], ends[1]),
        groups=groups,
        width=width if s > 1 and groups == 1 else None,
    )


def by_phases(graph: ir.Graph, node: ir.Node, phases: Phases) -> tuple[str, ...]:
    """Put the Conv and what puts its phases side by side in the place of a node, under its name and with its metadata.

    The weight keeps its name, and the last result has that of the node's.

    Args:
        graph: of the node; changed.
        node: a ConvTranspose.
        phases: of `phases_of`.

    Returns:
        Names of the results, in their order.
    """
    import onnx_ir as ir

    result, weight, name = node.outputs[0], node.inputs[1], str(node.name)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    assert weight is not None
    assert weight.const_value is not None
    values = phases.weight(weight.const_value.numpy())
    node.replace_input_with(1, None)
    del graph.initializers[str(weight.name)]
    operands = [add_constant(graph, str(weight.name), values)]
    if bias is not None:
        assert bias.const_value is not None
        operands.append(add_constant(graph, f"{name}_phases_bias", phases.channels(bias.const_value.numpy())))
    steps: list[_Step] = [("Conv", operands, {"pads": list(phases.pads), "group": phases.groups})]
    steps += (
        _number_by_number(graph, name, phases)
        if phases.width is None
        else _whole_pixels(graph, name, phases, len(values) // phases.stride**2)
    )
    value, names = node.inputs[0], []
    for number, (op, more, attributes) in enumerate(steps):
        made = ir.node(op, [value, *more], attributes, name=name if number == 0 else f"{name}_phases{number}")
        made.metadata_props.update(node.metadata_props)
        graph.insert_before(node, made)
        value = made.outputs[0]
        value.name, value.type = f"{result.name}_phases{number}", result.type
        names.append(str(value.name))
    assert value is not None
    result_name, value.shape = result.name, result.shape
    result.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    value.name = result_name
    return (*names[:-1], str(result_name))


_Step = tuple[str, list["ir.Value"], dict[str, Any]]
"""Operator, what it reads beside the value, and attributes."""


def _number_by_number(graph: ir.Graph, name: str, phases: Phases) -> list[_Step]:
    steps: list[_Step] = []
    if phases.stride > 1:
        steps.append(("DepthToSpace", [], {"blocksize": phases.stride, "mode": "CRD"}))
    return [*steps, *_cut(graph, name, phases, (2, 3))]


def _whole_pixels(graph: ir.Graph, name: str, phases: Phases, channels: int) -> list[_Step]:
    """[n, s s M, h, w] -> [n, h, w, s s M] -> [n, h, w s, s, M] -> [n, h, s, w s, M] -> [n, h s, w s, M] -> NCHW."""
    s, width = phases.stride, phases.width

    def sizes(what: str, *numbers: int) -> ir.Value:
        return add_constant(graph, f"{name}_{what}", np.array(numbers, dtype=np.int64))

    assert width is not None
    return [
        ("Transpose", [], {"perm": [0, 2, 3, 1]}),
        ("Reshape", [sizes("columns", 0, 0, width, s, channels)], {}),
        ("Transpose", [], {"perm": [0, 1, 3, 2, 4]}),
        ("Reshape", [sizes("rows", 0, -1, width, channels)], {}),
        *_cut(graph, name, phases, (1, 2)),
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
    ]


def _cut(graph: ir.Graph, name: str, phases: Phases, axes: tuple[int, int]) -> list[_Step]:
    if not any(phases.crop):
        return []
    top, left, bottom, right = phases.crop
    ends = [-end if end else np.iinfo(np.int64).max for end in (bottom, right)]
    numbers = {"starts": [top, left], "ends": ends, "axes": list(axes)}
    return [("Slice", [add_constant(graph, f"{name}_{k}", np.array(v)) for k, v in numbers.items()], {})]


def plan_by_phases(
    model: ir.Model, plan: QuantizationPlan, weights: Mapping[str, QuantizedWeight]
) -> tuple[QuantizationPlan, dict[str, QuantizedWeight], dict[str, tuple[str, ...]]]:
    """Rewrite the ConvTranspose nodes that a plan gives 8 bits, and the plan with them.

    What is between the Conv and the last result holds the same numbers, and so has the range of that result.

    Args:
        model: changed.
        plan: of the model.
        weights: codes of every weight that the plan quantizes.

    Returns:
        (plan, weights, node -> names of its results in their order) of the changed model.
    """
    nodes = {str(node.name): node for node in model.graph}
    ops, tensors, codes, results = list(plan.ops), list(plan.tensors), dict(weights), {}
    for index, op in enumerate(plan.ops):
        node = nodes.get(op.node)
        phases = None if node is None or op.precision != "int8" else phases_of(node)
        if node is None or phases is None:
            continue
        names = results[op.node] = by_phases(model.graph, node, phases)
        found = codes[str(op.weight)]
        codes[str(op.weight)] = replace(
            found, codes=phases.weight(found.codes), scales=phases.scales(found.scales), axis=0
        )
        ops[index] = replace(op, op_type="Conv", output=None if op.output is None else names[0])
        tensors += _ranges(plan, op, names)
    return replace(plan, ops=tuple(ops), tensors=tuple(tensors)), codes, results


def _ranges(plan: QuantizationPlan, op: OpPlan, names: tuple[str, ...]) -> list[Any]:
    """Ranges of the values in between."""
    return [] if op.output is None else [replace(plan.ranges[op.output], name=name) for name in names[:-1]]
