"""Sites are found with the axes that ONNX specifies, and weights become constants of their own."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from aigc_calibration.coverage import site_macs
from aigc_calibration.digest import graph_digest
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.prepare import copy_graph, prepare
from aigc_calibration.sites import find_sites, weight_array

from .conftest import make_graph, small_network


def test_axes_and_biases() -> None:
    model, _ = small_network()
    found = {s.node: s for s in find_sites(model)}
    assert {n: (s.channel_axis, s.input_axis, s.bias) for n, s in found.items()} == {
        "conv1": (0, 1, "b1"),
        "up": (1, 0, "b2"),
        "conv3": (0, 1, "b3"),
        "matmul": (1, 0, None),
        "gemm": (0, 1, "b5"),
    }
    assert found["up"].activations == ("r1",)
    assert found["matmul"].shape == (256, 24)


def test_a_product_of_activations_has_no_weight() -> None:
    model = make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["y"], "p")], {}, {"a": [2, 3], "b": [3, 4]}, {"y": [2, 4]}
    )
    (site,) = find_sites(model)
    assert (site.weight, site.activations) == (None, ("a", "b"))


def test_a_constant_left_operand_is_no_site() -> None:
    constants = {"c": np.ones((2, 3), np.float32)}
    assert not find_sites(
        make_graph([helper.make_node("MatMul", ["c", "b"], ["y"], "p")], constants, {"b": [3, 4]}, {"y": [2, 4]})
    )


def test_macs_by_hand() -> None:
    model, data = small_network()
    macs = site_macs(model, {"x": data.feeds[0]["x"][:2]})
    assert macs == {
        "conv1": 2 * 6 * 16 * (2 * 9),
        "up": 2 * 6 * 16 * (5 * 16),
        "conv3": 2 * 4 * 64 * (5 * 9),
        "matmul": 2 * 256 * 24,
        "gemm": 2 * 24 * 7,
    }


def test_a_tied_and_transposed_weight_gets_its_own_copy(rng: np.random.Generator) -> None:
    table = rng.standard_normal((5, 3)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "e"], ["h"], "first"),
        helper.make_node("MatMul", ["h", "e2"], ["h2"], "second"),
        helper.make_node("MatMul", ["h2", "e2"], ["h3"], "third"),
        helper.make_node("Transpose", ["e"], ["t"], "transpose", perm=[1, 0]),
        helper.make_node("MatMul", ["h3", "t"], ["y"], "head"),
    ]
    constants = {"e": table, "e2": rng.standard_normal((3, 3)).astype(np.float32)}
    model = make_graph(nodes, constants, {"x": ["n", 5]}, {"y": ["n", 5]})
    before = graph_digest(model)
    ready = prepare(model)
    assert graph_digest(model) == before
    sites = {s.node: s for s in find_sites(ready)}
    assert len({s.weight for s in sites.values()}) == 4
    np.testing.assert_array_equal(weight_array(ready, str(sites["head"].weight)), table.T)
    feeds = {"x": rng.standard_normal((4, 5)).astype(np.float32)}
    np.testing.assert_array_equal(open_onnx(model)(feeds)["y"], open_onnx(ready)(feeds)["y"])


def test_the_digest_sees_weights_wiring_and_attributes() -> None:
    model, _ = small_network()
    digest = graph_digest(model)
    assert digest == graph_digest(copy_graph(model)) != graph_digest(small_network(1)[0])
    changed = copy_graph(model)
    next(n for n in changed.graph if n.name == "up").name = "other"
    assert graph_digest(changed) == digest
    node = next(n for n in changed.graph if n.op_type == "Gemm")
    node.replace_input_with(2, None)
    assert graph_digest(changed) != digest


@pytest.mark.parametrize("name", ["conv1", "matmul"])
def test_the_digest_sees_one_changed_number(name: str) -> None:
    import onnx_ir as ir

    model, _ = small_network()
    weight = str(next(s.weight for s in find_sites(model) if s.node == name))
    values = weight_array(model, weight).copy()
    values.flat[-1] += np.float32(1e-3)
    changed = copy_graph(model)
    changed.graph.initializers[weight].const_value = ir.tensor(values, name=weight)
    assert graph_digest(changed) != graph_digest(model)


def test_a_folded_convolution_is_called_by_its_weight() -> None:
    """onnxscript leaves the scopes of the batch normalization on it."""
    constants = {"model.up.0.weight": np.zeros((3, 2, 3, 3), np.float32), "w": np.zeros((3, 3, 1, 1), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "model.up.0.weight"], ["c"], "folded", pads=[1] * 4),
        helper.make_node("Conv", ["c", "w"], ["y"], "plain"),
    ]
    model = make_graph(nodes, constants, {"x": ["n", 2, 4, 4]}, {"y": ["n", 3, 4, 4]})
    for node in model.graph:
        node.metadata_props["pkg.torch.onnx.name_scopes"] = repr(["", "model", "model.up.1", str(node.name)])
    assert [site.module for site in find_sites(model)] == ["up.0", "up.1"]
