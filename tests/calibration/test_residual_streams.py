"""Residual streams are found whole, or not at all."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.prepare import prepare
from aigc_calibration.residual_streams import residual_streams
from aigc_runtime.core.tensors import Array

from .conftest import make_graph, small_network
from .decoder import LAYERS, ROWS, TOKENS, WIDTH, Norm, decoder


@pytest.mark.parametrize("norm", ["rms", "layer", "written out"])
def test_all_that_writes_and_reads_a_stream(norm: Norm) -> None:
    (stream,) = residual_streams(decoder(norm)[0])
    assert stream.width == WIDTH
    assert set(stream.writers) == {
        ("table", 1),
        ("positions", 1),
        *((f"down{i}", 1) for i in range(LAYERS)),
        *((f"add{i}", 0) for i in range(LAYERS)),
    }
    assert {(n.gain, n.bias, tuple(s.node for s in n.readers)) for n in stream.norms} == {
        (f"gain_{y}", f"bias_{y}" if norm == "layer" else None, (reader,))
        for y, reader in (("n0", "up_0"), ("n1", "up_1"), ("end", "head_product"))
    }
    assert stream.readers == ()
    assert {site.node for site in stream.sites} == {"up_0", "up_1", "head_product"}
    assert {"h0", "h1", "h2", "rows", "b0"} <= set(stream.values)
    assert not {"n0", "u0", "t0", "y"} & set(stream.values)


def changed(edit: str) -> ir.Model:
    """A decoder with something on its stream that a rotation would change."""
    model, _ = decoder()
    graph = model.graph
    h1 = next(v for n in graph for v in n.outputs if v.name == "h1")
    reader = next(n for n in graph if n.name == "sum_1")
    if edit == "result":
        graph.outputs.append(h1)
        return model
    if edit == "table read twice":
        embed = next(n for n in graph if n.name == "embed")
        again = ir.node("Gather", list(embed.inputs), name="again")
        graph.insert_after(embed, again)
        again.outputs[0].shape, again.outputs[0].type = embed.outputs[0].shape, embed.outputs[0].type
        graph.outputs.append(again.outputs[0])
        return model
    if edit == "gain on the stream":
        gain = ir.Value(name="g", const_value=ir.tensor(np.ones(WIDTH, np.float32), name="g"), shape=ir.Shape([WIDTH]))
        graph.initializers["g"] = gain
        node = ir.node("Mul", [h1, gain], name="changed")
    else:
        node = ir.node({"a function of each number": "Tanh", "turned": "Transpose"}[edit], [h1], name="changed")
        if edit == "turned":
            node.attributes["perm"] = ir.AttrInt64s("perm", [0, 1, 2][::-1])
    graph.insert_before(reader, node)
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = "changed", h1.shape, h1.type
    reader.replace_input_with(0, node.outputs[0])
    return model


@pytest.mark.parametrize(
    "edit", ["result", "table read twice", "gain on the stream", "a function of each number", "turned"]
)
def test_a_stream_with_something_else_on_it_is_left(edit: str) -> None:
    assert residual_streams(changed(edit)) == ()


def test_a_gain_that_something_else_reads_is_left() -> None:
    """What reads the result of a norm besides products would see it without its gain."""
    model, _ = decoder()
    norm = next(n for n in model.graph if n.name == "norm_n1")
    model.graph.outputs.append(norm.outputs[0])
    assert residual_streams(model) == ()


def test_networks_without_norms_have_none() -> None:
    assert residual_streams(prepare(small_network()[0])) == ()


def test_products_may_read_a_stream_as_it_is() -> None:
    """Two streams: one of the table, and one of the product that reads the first without a norm."""
    rng = np.random.default_rng(0)
    constants: dict[str, Array | np.generic] = {
        "W": rng.standard_normal((ROWS, WIDTH)).astype(np.float32),
        "V": rng.standard_normal((WIDTH, TOKENS)).astype(np.float32),
        "c": rng.standard_normal(TOKENS).astype(np.float32),
        "axes": np.array([1], np.int64),
        "ones": np.ones(TOKENS, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["a"], "first"),
        helper.make_node("ReduceSumSquare", ["a", "axes"], ["s"], "squares"),
        helper.make_node("Div", ["a", "s"], ["b"], "divide"),
        helper.make_node("Gemm", ["b", "V", "c"], ["d"], "second"),
        helper.make_node("LayerNormalization", ["d", "ones"], ["e"], "norm"),
        helper.make_node("Tanh", ["e"], ["y"], "tanh"),
    ]
    model = prepare(make_graph(nodes, constants, {"x": ["n", ROWS]}, {"y": ["n", TOKENS]}))
    (stream,) = residual_streams(model)  # what is behind Tanh sees the second one's channels
    assert stream.writers == (("W", 1),)
    assert [site.node for site in stream.readers] == ["second"]
