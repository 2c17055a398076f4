"""One operator for attention over a cache: the same logits in every conversation, and no other graph touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from aigc_calibration.bodies import all_nodes
from aigc_calibration.onnx_file import to_proto
from aigc_export.graphs.passes.decoder.cached_attention import fuse_cached_attention, reads_rows_apart
from aigc_export.graphs.passes.decoder.packed_products import pack_products
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.errors import EngineError

from .decoders import FORMS, decoder, operators, results

LEFT_ALONE = ("few numbers of a head turn", "narrow heads", "odd heads")


def steps(model: ir.Model) -> list[ir.Node]:
    return [node for node in all_nodes(model) if node.op_type == "GroupQueryAttention"]


def same(one: ir.Model, other: ir.Model, interface: object) -> bool:
    pairs = zip(results(one, interface), results(other, interface), strict=True)  # type: ignore[arg-type]
    return all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)


@pytest.mark.parametrize("kind", ["growing", "buffer"])
def test_a_step_gives_the_same_logits(kind: str) -> None:
    interface, model = decoder(kind=kind)
    _, fused = decoder(kind=kind)
    fuse_cached_attention(fused)
    assert len(steps(fused)) == 2
    assert operators(fused, "Softmax") == 0
    assert same(model, fused, interface)


def test_another_bias_would_be_seen() -> None:
    """The comparison fails where the operator adds nothing."""
    interface, model = decoder()
    _, fused = decoder()
    for node in steps(fuse_cached_attention(fused)):
        node.resize_inputs(10)
    assert not same(model, fused, interface)


def test_parts_of_one_product_are_taken_whole() -> None:
    interface, model = decoder()
    _, fused = decoder()
    fuse_cached_attention(pack_products(fused))
    for node in steps(fused):
        assert node.inputs[0] is not None
        assert node.inputs[0].shape is not None
        assert node.inputs[0].shape[2] == (4 + 2 + 2) * 16
        assert node.inputs[1] is node.inputs[2] is None
    assert same(model, fused, interface)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["growing", "buffer"])
@pytest.mark.parametrize("form", [form for form in FORMS if form not in (*LEFT_ALONE, "llama")])
def test_every_form_that_is_covered(form: str, kind: str) -> None:
    interface, model = decoder(form, kind)
    _, fused = decoder(form, kind)
    fuse_cached_attention(pack_products(fused))
    assert len(steps(fused)) == 2
    assert same(model, fused, interface)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["growing", "buffer"])
@pytest.mark.parametrize("form", LEFT_ALONE)
def test_a_form_that_is_not_covered_keeps_every_node(form: str, kind: str) -> None:
    _, model = decoder(form, kind)
    before = [str(node) for node in model.graph]
    fuse_cached_attention(model)
    assert [str(node) for node in model.graph] == before


@pytest.mark.parametrize("kind", ["growing", "buffer"])
def test_a_cache_whose_later_keys_are_seen_is_left_alone(kind: str) -> None:
    """The operator would not see them."""
    _, model = decoder(kind=kind)
    for node in model.graph:
        if node.op_type == "LessOrEqual":
            node.replace_input_with(0, node.inputs[1])
    assert not steps(fuse_cached_attention(model))


def test_a_graph_with_an_output_without_rows_is_left_alone() -> None:
    """A session that runs a row at a time could not join it."""
    _, model = decoder()
    total = ir.node("Shape", [model.graph.inputs[0]], name="sizes")
    total.outputs[0].name, total.outputs[0].shape = "sizes", ir.Shape([2])
    total.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    model.graph.append(total)
    model.graph.outputs.append(total.outputs[0])
    assert not steps(fuse_cached_attention(model))
    assert not reads_rows_apart(model)


def test_several_rows_at_once_would_be_wrong_or_refused() -> None:
    """What the session runs a row at a time for: both cease to be so where the operator learns it."""
    interface, model = decoder()
    _, fused = decoder()
    fuse_cached_attention(fused)
    assert reads_rows_apart(fused)
    assert not reads_rows_apart(model)
    feeds = {"pad_length": np.array([0, 2]), "logits_to_keep": np.array([0])}

    def last(graph: ir.Model, *runs: list[list[int]]) -> Any:
        with OrtSession(to_proto(graph).SerializeToString(), interface, threads=1) as session:
            state = session.new_state(2)
            return [session.run({**feeds, "input_ids": np.array(ids)}, state)["logits"] for ids in runs][-1]

    prompt, token = [[1, 2, 3, 4], [5, 6, 7, 8]], [[9], [9]]
    assert not np.allclose(last(fused, prompt, token), last(model, prompt, token), atol=1e-3)
    with pytest.raises(EngineError):
        last(fused, prompt, prompt)


def test_keys_that_something_else_reads_are_left_alone() -> None:
    _, model = decoder()
    turned = next(node for node in model.graph if node.outputs[0].name == "present_key_0").inputs[1]
    assert turned is not None
    model.graph.outputs.append(turned)
    fuse_cached_attention(model)
    assert len(steps(model)) == 1


def test_the_cache_is_written_where_it_lies() -> None:
    """A buffer is bound as input and as output: what the operator appends is there, and nothing else changed."""
    interface, model = decoder(kind="buffer")
    fuse_cached_attention(model)
    with OrtSession(to_proto(model).SerializeToString(), interface, threads=1) as session:
        state = session.new_state(1)
        for ids in ([[1, 2, 3]], [[4]]):
            feeds = {"input_ids": np.array(ids), "pad_length": np.zeros(1, np.int64), "logits_to_keep": np.array([0])}
            before = {name: value.numpy().copy() for name, value in state.values.items()}
            places = {name: value.data_ptr() for name, value in state.values.items()}
            session.run(feeds, state)
        for name, value in state.values.items():
            now = value.numpy()
            assert value.data_ptr() == places[name]
            assert np.abs(now[:, :, 3]).min() > 0
            np.testing.assert_array_equal(np.delete(now, 3, axis=2), np.delete(before[name], 3, axis=2))


def attend(*, size: int = 16, rows: int = 1, steps: int = 1, held: int = 3, turned: bool = True) -> list[Any]:
    """Run the operator alone, with two heads of one size, on ones: results, keys and values."""
    floats = {"query": ("b", "s", 2 * size), "past": ("b", 2, "p", size), "factors": ("t", size // 2)}
    whole = ["query", "query", "query", "past", "past", "places", "total"]
    inputs = [*whole, *(["factors", "factors"] if turned else [])]
    node = helper.make_node(
        "GroupQueryAttention", inputs, ["y", "k", "v"], domain="com.microsoft", num_heads=2, kv_num_heads=2,
        do_rotary=int(turned),
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "operator",
        [
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in floats.items()),
            helper.make_tensor_value_info("places", TensorProto.INT32, ["b"]),
            helper.make_tensor_value_info("total", TensorProto.INT32, [1]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "k", "v")],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
    )
    total = held + steps
    feeds = {
        "query": np.ones((rows, steps, 2 * size), np.float32),
        "past": np.ones((rows, 2, held, size), np.float32),
        "factors": np.ones((total, size // 2), np.float32),
        "places": np.full(rows, total - 1, np.int32),
        "total": np.array([total], np.int32),
    }
    found: list[Any] = session.run(None, {one.name: feeds[one.name] for one in session.get_inputs()})
    return found


@pytest.mark.parametrize(
    "refused", [{"size": 8}, {"size": 12, "turned": False}, {"rows": 2, "steps": 2}], ids=["turned", "width", "rows"]
)
def test_the_operator_refuses_what_is_not_given_to_it(refused: dict[str, Any]) -> None:
    """What the rewrite leaves alone, and why; one of these that passes can be given to it."""
    with pytest.raises(Exception, match=r"must be|shall be"):
        attend(**refused)


def test_the_operator_takes_what_it_is_given() -> None:
    """A mean of values that are all one is one, however it is weighed."""
    for taken in ({}, {"size": 8, "turned": False}, {"rows": 3}, {"steps": 4}):
        result, keys, values = attend(**taken)  # type: ignore[arg-type]
        np.testing.assert_allclose(result, 1, rtol=1e-6)
        np.testing.assert_array_equal(values, 1)
        assert keys.shape == values.shape
        assert values.shape[2] == 3 + result.shape[1]
