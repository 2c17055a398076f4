"""Functions are inlined without a change of results, names are unique, and every inner graph is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from aigc_calibration.bodies import all_graphs, all_nodes, bodies, inline_functions, make_names_unique, proto_nodes
from aigc_calibration.onnx_file import save_graph, to_proto, weight_bytes
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.prepare import copy_graph, prepare

from ..inner_graphs import HEAD, INNER, reference

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def parsed(text: str) -> ir.Model:
    proto = parser.parse_model(HEAD + text)
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto)


@pytest.mark.parametrize("name", INNER)
def test_inlining_keeps_results_and_gives_every_node_and_value_its_name(name: str) -> None:
    inner = INNER[name]
    model = inline_functions(copy_graph(inner.model()))
    proto = to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    assert not model.functions
    assert {o.domain for o in proto.opset_import} <= {"", "own"}
    for feeds in inner.sets():
        expected = reference(inner.proto(), feeds)
        for output, value in reference(proto, feeds).items():
            np.testing.assert_allclose(value, expected[output], rtol=1e-5, atol=1e-6)
    make_names_unique(model)
    nodes = [node.name for node in all_nodes(model)]
    values = [value.name for graph in all_graphs(model) for node in graph for value in node.outputs]
    assert len(set(nodes)) == len(nodes) == sum(1 for _ in proto_nodes(proto.graph))
    assert len(set(values)) == len(values)


def test_names_that_are_unique_stay() -> None:
    model = INNER["loop"].model()
    before = [node.name for node in all_nodes(model)]
    make_names_unique(model)
    assert [node.name for node in all_nodes(model)] == before


def test_a_function_that_gives_its_input_as_a_result_leaves_the_names_of_its_caller() -> None:
    model = parsed("""
m (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) { h = Relu (x)  y, z = own.pass (h) }
<domain: "own", opset_import: ["" : 20]>
pass (a) => (a, b) { b = Neg (a) }
""")
    run = open_onnx(inline_functions(model))({"x": X})
    np.testing.assert_array_equal(run["y"], np.maximum(X, 0))
    np.testing.assert_array_equal(run["z"], -np.maximum(X, 0))


def test_defaults_of_attributes_and_calls_in_functions_and_bodies() -> None:
    model = parsed("""
m (float[N, 4] x, bool c) => (float[N, 4] y) {
  y = If (c) <
    then_branch = t () => (float[N, 4] t) { t = own.outer (x) },
    else_branch = e () => (float[N, 4] e) { e = own.inner <slope = 0.25> (x) }
  >
}
<domain: "own", opset_import: ["" : 20]>
inner <slope: float = 0.5> (a) => (b) { b = LeakyRelu <alpha: float = @slope> (a) }
<domain: "own", opset_import: ["" : 20, "own" : 1]>
outer (a) => (b) { c = own.inner (a)  b = Neg (c) }
""")
    run = open_onnx(inline_functions(model))
    np.testing.assert_allclose(run({"x": X, "c": np.array(True)})["y"], -np.where(X < 0, X / 2, X))
    np.testing.assert_allclose(run({"x": X, "c": np.array(False)})["y"], np.where(X < 0, X / 4, X))
    assert "own" not in model.opset_imports


def test_a_function_of_another_opset_is_refused_by_name() -> None:
    model = parsed("""
m (float[N, 4] x) => (float[N, 4] y) { y = own.old (x) }
<domain: "own", opset_import: ["" : 17]>
old (a) => (b) { b = Relu (a) }
""")
    with pytest.raises(ValueError, match=r"own::old.* version 20 in the model but version 17"):
        inline_functions(model)


def test_metadata_of_calls_reaches_what_they_become() -> None:
    model = ir.from_proto(INNER["function"].proto())
    next(iter(model.graph)).metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'model', 'model.layer', 'call']"
    first = next(node for node in prepare(model).graph if node.op_type == "MatMul")
    assert "model.layer" in first.metadata_props["pkg.torch.onnx.name_scopes"]


@pytest.mark.parametrize("name", INNER)
def test_preparing_leaves_the_model_that_it_is_given(name: str) -> None:
    model = INNER[name].model()
    before = to_proto(model).SerializeToString(deterministic=True)
    prepare(model)
    assert to_proto(model).SerializeToString(deterministic=True) == before


def test_weights_in_bodies_count() -> None:
    inner = INNER["if"]
    shapes = [*inner.weights.values(), (16, 16)]
    assert weight_bytes(inner.model()) == 4 * sum(int(np.prod(shape)) for shape in shapes)


def test_weights_in_bodies_go_to_the_file_beside_the_graph(tmp_path: Path) -> None:
    inner = INNER["if"]
    wide = replace(
        inner,
        text=inner.text.replace("16]", "64]"),
        weights={"w": (64, 64), "b": (64,), "out": (64, 8)},
    )
    graph, data = save_graph(wide.model(), tmp_path / "model.onnx", threshold=0)
    assert graph.stat().st_size < 4096 < 4 * 2 * 64 * 64 <= data.stat().st_size
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32), "flag": np.array(True)}
    np.testing.assert_allclose(open_onnx(graph)(feeds)["y"], reference(wide.proto(), feeds)["y"], atol=1e-5)


def test_every_body_is_found_with_its_node() -> None:
    found = [(body.name, node.name) for body, node in bodies(INNER["nested"].model().graph)]
    assert found == [("step", "steps"), ("then_body", "choice"), ("else_body", "choice")]
    assert len(list(all_graphs(INNER["function"].model()))) == 3
