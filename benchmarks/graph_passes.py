"""Rewrites of generators' graphs on ONNX Runtime, each beside the graph as it is: A B A B in one process, one thread.

    .venv/bin/python benchmarks/graph_passes.py
    .venv/bin/python benchmarks/graph_passes.py --case dcgan --rounds 15

A case is a network with random weights, whose speed is that of trained ones. Every rewritten graph is compared with the
first before it is timed. What pays is a pass of a target; docs/passes.md has the table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import onnx_ir as ir
import torch

from aigc_calibration.config import QuantConfig
from aigc_calibration.edit import add_constant
from aigc_calibration.onnx_file import to_proto
from aigc_calibration.phases import by_phases, phases_of
from aigc_calibration.prepare import copy_graph
from aigc_calibration.quantize import quantize
from aigc_export.graphs.capture import capture
from aigc_export.graphs.passes import CLEAN_UP, run_passes
from aigc_export.graphs.passes.pixel_product import multiply_pixels
from aigc_export.graphs.passes.prelu import spell_out_prelu
from aigc_export.prepare.calibration_data import ExampleData
from aigc_export.prepare.prepare import pass_feeds
from aigc_models.families.dcgan import DCGANConfig, DCGANGenerator
from aigc_models.families.srvgg import SRVGGNet, SRVGGNetConfig
from aigc_models.families.stylegan2.config import StyleGAN2Config
from aigc_models.families.stylegan2.generator import StyleGAN2
from aigc_models.gan_programs import dcgan_program, stylegan2_program
from aigc_models.program import Part
from aigc_models.upscale_program import upscale_program
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.core.tensors import Array

Rewrite = Callable[[ir.Model], ir.Model]


def as_it_is(model: ir.Model) -> ir.Model:
    return model


# ConvTranspose


def phases(model: ir.Model, *, grouped: bool | None = None, pixel: bool | None = None) -> ir.Model:
    """ConvTranspose -> Conv of the phases, DepthToSpace and Slice.

    Args:
        model: changed.
        grouped: only those in groups, or only the others.
        pixel: only those of one pixel, or only the others.
    """
    for node in list(model.graph):
        found = phases_of(node)
        if found is None or (grouped is not None and grouped != (found.groups > 1)):
            continue
        if pixel is not None and pixel != _of_a_pixel(node):
            continue
        by_phases(model.graph, node, found)
    return model


def _of_a_pixel(node: ir.Node) -> bool:
    x = node.inputs[0]
    return x is not None and x.shape is not None and list(x.shape)[2:] == [1, 1]


# Filters


def separable(model: ir.Model) -> ir.Model:
    """A depthwise convolution whose taps are an outer product -> one along the rows, one along the columns."""
    for node in list(model.graph):
        weight = node.inputs[1] if node.op_type == "Conv" else None
        if weight is None or weight.const_value is None or node.attributes.get_int("group", 1) == 1:
            continue
        values = weight.const_value.numpy()
        row, column = values[:, :, :1, :] / values[:, :, :1, :1], values[:, :, :, :1]
        if values.shape[1] != 1 or not np.allclose(column * row, values, rtol=1e-5):
            continue
        top, left, bottom, right = node.attributes.get_ints("pads", [0, 0, 0, 0])
        group = node.attributes.get_int("group", 1)
        one = ir.node(
            "Conv",
            [node.inputs[0], add_constant(model.graph, f"{node.name}_column", np.ascontiguousarray(column))],
            {"pads": [top, 0, bottom, 0], "group": group},
        )
        two = ir.node(
            "Conv",
            [one.outputs[0], add_constant(model.graph, f"{node.name}_row", np.ascontiguousarray(row))],
            {"pads": [0, left, 0, right], "group": group},
        )
        model.graph.insert_before(node, [one, two])
        node.outputs[0].replace_all_uses_with(two.outputs[0])
        model.graph.remove(node, safe=True)
    return model


# PReLU


def _prelus(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Value, Array]]:
    """Every PRelu whose slopes are a constant: the node, the constant, and its numbers."""
    for node in list(model.graph):
        slope = node.inputs[1] if node.op_type == "PRelu" else None
        if slope is not None and slope.const_value is not None:
            yield node, slope, slope.const_value.numpy()


def prelu_as_maximum(model: ir.Model) -> ir.Model:
    """PRelu(x, a) with every a <= 1 -> Max(x, a x)."""
    for node, slope, values in _prelus(model):
        if values.max() <= 1:
            scaled = ir.node("Mul", [node.inputs[0], slope])
            larger = ir.node("Max", [node.inputs[0], scaled.outputs[0]])
            _put(model, node, [scaled, larger])
    return model


def prelu_as_halves(model: ir.Model) -> ir.Model:
    """PRelu(x, a) -> Relu(x) + a Min(x, 0): the same numbers, bit by bit."""
    for node, slope, _ in _prelus(model):
        zero = add_constant(model.graph, "zero", np.zeros((), np.float32))
        positive = ir.node("Relu", [node.inputs[0]])
        negative = ir.node("Min", [node.inputs[0], zero])
        scaled = ir.node("Mul", [negative.outputs[0], slope])
        whole = ir.node("Add", [positive.outputs[0], scaled.outputs[0]])
        _put(model, node, [positive, negative, scaled, whole])
    return model


def prelu_as_bend(model: ir.Model) -> ir.Model:
    """PRelu(x, a) -> x + (a - 1) Min(x, 0)."""
    for node, _, values in _prelus(model):
        zero = add_constant(model.graph, "zero", np.zeros((), np.float32))
        bend = add_constant(model.graph, f"{node.name}_bend", values - 1)
        negative = ir.node("Min", [node.inputs[0], zero])
        scaled = ir.node("Mul", [negative.outputs[0], bend])
        whole = ir.node("Add", [node.inputs[0], scaled.outputs[0]])
        _put(model, node, [negative, scaled, whole])
    return model


def prelu_depthwise(model: ir.Model) -> ir.Model:
    """PRelu(x, a) -> Conv(x, a) + Conv(Relu(x), 1 - a), depthwise 1 x 1: stays in ONNX Runtime's blocks of channels."""
    for node, _, slopes in _prelus(model):
        values = slopes.reshape(-1, 1, 1, 1)
        group = {"group": len(values)}
        positive = ir.node("Relu", [node.inputs[0]])
        scaled = ir.node("Conv", [node.inputs[0], add_constant(model.graph, f"{node.name}_a", values)], group)
        rest = add_constant(model.graph, f"{node.name}_b", 1 - values)
        more = ir.node("Conv", [positive.outputs[0], rest], group)
        whole = ir.node("Add", [scaled.outputs[0], more.outputs[0]])
        _put(model, node, [positive, scaled, more, whole])
    return model


def _put(model: ir.Model, node: ir.Node, made: list[ir.Node]) -> None:
    for one in made:
        one.outputs[0].shape, one.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        one.metadata_props.update(node.metadata_props)
        one.name = f"{node.name}_{one.op_type}_{made.index(one)}"
        one.outputs[0].name = f"{one.name}_result"
    model.graph.insert_before(node, made)
    node.outputs[0].replace_all_uses_with(made[-1].outputs[0], replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


# Cases


def dcgan() -> Part:
    return dcgan_program(DCGANGenerator(DCGANConfig()).eval()).part


def stylegan2() -> Part:
    model = StyleGAN2(StyleGAN2Config(channels=(128,) * 5, z_size=64, w_size=64, mapping_layers=2))
    return stylegan2_program(model.eval()).parts["synthesis"]


def srvgg() -> Part:
    model = SRVGGNet(SRVGGNetConfig())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and "bias" not in name:
                parameter.uniform_(-0.3, 0.9)
    return upscale_program(model, tile=64, overlap=8).part


CASES: Mapping[str, tuple[Callable[[], Part], Mapping[str, Rewrite], tuple[int, ...], bool]] = {
    "dcgan": (
        dcgan,
        {
            "all by phases": phases,
            "all but the first by phases": partial(phases, pixel=False),
            "the first by phases": partial(phases, pixel=True),
            "the first as a product": multiply_pixels,
        },
        (1, 8),
        True,
    ),
    "stylegan2": (
        stylegan2,
        {
            "doubling convolutions by phases": partial(phases, grouped=False),
            "doubled images by phases": partial(phases, grouped=True),
            "separable blur": separable,
        },
        (1, 4),
        False,
    ),
    "srvgg": (
        srvgg,
        {
            "PReLU as Max": prelu_as_maximum,
            "PReLU as a sum": spell_out_prelu,
            "PReLU as halves": prelu_as_halves,
            "PReLU as a bend": prelu_as_bend,
            "PReLU depthwise": prelu_depthwise,
        },
        (1, 4),
        True,
    ),
}
"""name -> (part, rewrites, batches, whether int8 is timed, too)."""


def opened(model: ir.Model, part: Part) -> OrtSession:
    """As a device opens it."""
    return OrtSession(to_proto(model).SerializeToString(), part.interface, folder=None, threads=1)


def timed(sessions: list[OrtSession], feeds: Mapping[str, Array], rounds: int) -> list[list[float]]:
    """Milliseconds of every round, A B A B."""
    found: list[list[float]] = [[] for _ in sessions]
    for number in range(rounds + 2):
        for seconds, session in zip(found, sessions, strict=True):
            started = time.perf_counter()
            session.run(feeds)
            if number >= 2:
                seconds.append((time.perf_counter() - started) * 1e3)
    return found


def rows_of(feeds: Mapping[str, Array], batch: int) -> dict[str, Array]:
    return {name: np.repeat(array[:1], batch, axis=0) for name, array in feeds.items()}


def in_8_bits(model: ir.Model, part: Part) -> ir.Model:
    return quantize(model, ExampleData(part=part, seed=0), QuantConfig(), precision="int8", threads=1).graph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=tuple(CASES), action="append")
    parser.add_argument("--rounds", type=int, default=31)
    chosen = parser.parse_args()
    for name in chosen.case or CASES:
        make, rewrites, batches, eight = CASES[name]
        torch.manual_seed(0)
        part = make()
        feeds = pass_feeds(part, 0)[0]
        captured = capture(part, opset=20).model
        graph, _ = run_passes(captured, CLEAN_UP, feeds=[feeds])
        graphs = {"as it is": copy_graph(graph), **{w: rewrite(copy_graph(graph)) for w, rewrite in rewrites.items()}}
        for precision in ("fp32", "int8") if eight else ("fp32",):
            sessions = {w: opened(g if precision == "fp32" else in_8_bits(g, part), part) for w, g in graphs.items()}
            (reference,) = sessions["as it is"].run(feeds).values()
            for batch in batches:
                times = timed(list(sessions.values()), rows_of(feeds, batch), chosen.rounds)
                first = times[0]
                for (way, session), found in zip(sessions.items(), times, strict=True):
                    (result,) = session.run(feeds).values()
                    error = np.abs(result - reference).max() / np.abs(reference).max()
                    ratio = statistics.median(a / b for a, b in zip(first, found, strict=True))
                    shown = f"{statistics.median(found):8.2f} ms {ratio:5.2f}x, differs by {error:.1e}"
                    print(f"{name} {precision} batch {batch}: {way:34}{shown}", flush=True)


if __name__ == "__main__":
    main()
