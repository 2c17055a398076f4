"""Passes rewrite If, Loop, Scan and functions without a change of results, and leave what they are given as it is."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from aigc_calibration.bodies import all_graphs, all_nodes
from aigc_calibration.digest import graph_digest
from aigc_calibration.onnx_file import to_proto
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.prepare import prepare
from aigc_calibration.sites import find_sites, inner_sites
from aigc_export.errors import PassError
from aigc_export.graphs.passes import CLEAN_UP, INLINE, run_passes
from aigc_export.graphs.passes.batch_norm import fold_batch_norm
from aigc_export.graphs.passes.onnxscript_optimize import onnxscript_optimize
from aigc_export.graphs.passes.slim import slim
from aigc_export.targets.graph_session import bf16_products_in_float
from aigc_export.targets.table import TARGETS
from aigc_runtime.core.tensors import Array

from ....inner_graphs import HEAD, INNER, Inner, reference

SCOPES = "pkg.torch.onnx.name_scopes"


@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt"])
@pytest.mark.parametrize("name", INNER)
def test_results_stay_and_so_does_the_model_that_was_given(name: str, target: str) -> None:
    inner = INNER[name]
    model, feeds = inner.model(), inner.sets()
    before = to_proto(model).SerializeToString(deterministic=True)
    made, reports = run_passes(model, TARGETS[target].passes, feeds=feeds)
    assert to_proto(model).SerializeToString(deterministic=True) == before
    functions = bool(model.functions)
    assert [report.name for report in reports] == [
        n for n, _ in (*((INLINE,) if functions else ()), *TARGETS[target].passes)
    ]
    assert reports[0].nodes_before == sum(1 for _ in all_nodes(model))
    assert not made.functions
    for one in feeds:
        expected = reference(inner.proto(), one)
        for output, value in reference(made, one).items():
            np.testing.assert_allclose(value, expected[output], rtol=1e-4, atol=1e-5)
    graph = prepare(made)
    assert len(find_sites(graph)) == inner.outer
    assert Counter(s.within for s in inner_sites(graph)) == Counter(inner.within)
    again, _ = run_passes(inner.model(), TARGETS[target].passes, feeds=feeds)
    other, _ = run_passes(inner.model(seed=1), TARGETS[target].passes, feeds=feeds)
    assert graph_digest(made) == graph_digest(again) != graph_digest(other)


def test_a_pass_that_changes_a_body_is_found_out() -> None:
    inner = INNER["loop"]

    def breaks(model: ir.Model) -> ir.Model:
        next(node for node in all_nodes(model) if node.op_type == "Tanh").op_type = "Sigmoid"
        return model

    with pytest.raises(PassError, match=r"pass 'bad' changed output 'y'"):
        run_passes(inner.model(), [("bad", breaks)], feeds=inner.sets())


def test_a_loop_without_a_condition_runs_in_float64_as_well() -> None:
    """Onnx's own evaluator would not run it at all; what the passes made of it would seem to be wrong."""
    inner = INNER["loop"]
    endless = parser.parse_model(inner.text.replace("Loop (n, yes, c)", "Loop (n, , c)"))
    endless.graph.initializer.extend(inner.proto().graph.initializer)
    made, reports = run_passes(ir.from_proto(endless), CLEAN_UP, feeds=inner.sets())
    assert reports[0].rounding_db is not None
    assert reports[0].rounding_db > 100
    for feeds in inner.sets():
        np.testing.assert_allclose(open_onnx(made)(feeds)["y"], reference(inner.proto(), feeds)["y"], atol=1e-5)


def test_a_function_that_cannot_be_inlined_is_refused_by_name() -> None:
    text = """
m (float[N, 4] x) => (float[N, 4] y) { y = own.old (x) }
<domain: "own", opset_import: ["" : 17]>
old (a) => (b) { b = Relu (a) }
"""
    model = ir.from_proto(parser.parse_model(HEAD + text))
    with pytest.raises(PassError, match=r"(?s)pass 'inline-functions' failed.*own::old.*version 17"):
        run_passes(model, CLEAN_UP, feeds=[{"x": np.ones((2, 4), np.float32)}])


FOLDABLE = """<ir_version: 8, opset_import: ["" : OPSET]>
g (float[N, 4] x, bool flag) => (float[N, 4] y) {
  [outer] r = Relu (x)
  [true] true = Constant <value = bool {1}> ()
  [fixed] s = If (true) <
    then_branch = yes () => (float[N, 4] p) { [kept] p = Exp (r) },
    else_branch = no () => (float[N, 4] q) { [gone] q = Neg (r) }
  >
  [choice] y = If (flag) <
    then_branch = t () => (float[N, 4] t) {
      two = Constant <value = float {2}> ()
      three = Constant <value = float {3}> ()
      [six] six = Mul (two, three)
      [same] q = Identity (s)
      [dead] u = Exp (s)
      [times] t = Mul (q, six)
    },
    else_branch = e () => (float[N, 4] e) { [else] e = Relu (r) }
  >
}
"""


@pytest.mark.parametrize("opset", [11, 18, 24])
@pytest.mark.parametrize("rewrite", [onnxscript_optimize, slim])
def test_constants_and_dead_nodes_of_bodies_go(rewrite: object, opset: int) -> None:
    proto = onnx.shape_inference.infer_shapes(parser.parse_model(FOLDABLE.replace("OPSET", str(opset))))
    model = ir.from_proto(proto)
    for node in all_nodes(model):
        node.metadata_props[SCOPES] = f"['', 'model', 'model.{node.name}', 'f']"
    made = rewrite(model)  # type: ignore[operator]
    left = {node.name: node for node in all_nodes(made)}
    assert not {"six", "dead", "two", "three"} & left.keys()
    assert left["times"].metadata_props[SCOPES] == "['', 'model', 'model.times', 'f']"
    if rewrite is onnxscript_optimize:
        assert not {"same", "fixed", "gone"} & left.keys()
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    for flag in (True, False):
        feeds: dict[str, Array] = {"x": x, "flag": np.array(flag)}
        np.testing.assert_allclose(reference(made, feeds)["y"], reference(proto, feeds)["y"], rtol=1e-6)


NORMALIZED = """
m (float[N, 6] x, bool c) => (float[N, 4, 2, 3] y) {
  shape = Constant <value = int64[4] {-1, 4, 2, 3}> ()
  OUTSIDE
  y = If (c) <
    then_branch = a () => (float[N, 4, 2, 3] p) { INSIDE },
    else_branch = b () => (float[N, 4, 2, 3] q) {
      [other] g2 = Gemm (x, w2, b2)
      q = Reshape (g2, shape)
    }
  >
}
"""
GEMM, VIEW = "[gemm] g = Gemm (x, w, b)", "r = Reshape (g, shape)"
NORM = "p = BatchNormalization (r, gamma, beta, mean, var)"


@pytest.mark.parametrize(
    ("outside", "inside", "left"),
    [
        ("", f"{GEMM} {VIEW} {NORM}", 0),
        (f"{GEMM} {VIEW}", NORM, 1),
        (GEMM, f"{VIEW} {NORM}", 1),
        ("", f"{GEMM.replace('(x, w,', '(x, w2,')} {VIEW} {NORM}", 1),
    ],
    ids=["in one body", "behind a product outside", "behind one reshaped inside", "behind a shared weight"],
)
def test_a_normalization_is_folded_inside_its_own_body(outside: str, inside: str, left: int) -> None:
    sizes: dict[str, tuple[int, ...]] = {"w": (6, 24), "w2": (6, 24), "b": (24,), "b2": (24,)}
    norm: dict[str, tuple[int, ...]] = {"gamma": (4,), "beta": (4,), "mean": (4,), "var": (4,)}
    inner = Inner(
        text=HEAD + NORMALIZED.replace("OUTSIDE", outside).replace("INSIDE", inside),
        weights={**sizes, **norm},
        feeds=lambda rng, rows: {"x": rng.standard_normal((rows, 6)).astype(np.float32), "c": np.array(rows % 2 == 0)},
        outer=0,
        within=(),
    )
    model = inner.model()
    variance = model.graph.initializers["var"]
    assert variance.const_value is not None
    variance.const_value = ir.tensor(np.abs(variance.const_value.numpy()) + 0.1, name="var")
    for node in [n for n in model.graph if n.op_type == "Constant"]:  # as the passes before leave it
        value = ir.Value(name="shape_constant", const_value=node.attributes["value"].as_tensor())
        model.graph.register_initializer(value)
        node.outputs[0].replace_all_uses_with(value)
        model.graph.remove(node, safe=True)
    made, (report,) = run_passes(model, [("fold", fold_batch_norm)], feeds=inner.sets())
    assert sum(node.op_type == "BatchNormalization" for node in all_nodes(made)) == left
    assert report.nodes_before - report.nodes_after == 1 - left
    for feeds in inner.sets():
        np.testing.assert_allclose(reference(made, feeds)["y"], reference(model, feeds)["y"], rtol=1e-4, atol=1e-5)


def test_products_of_bf16_inside_a_body_are_computed_in_float() -> None:
    text = """
m (float[N, 16] x, bool c) => (float[N, 16] y) {
  b = Cast <to = 16> (x)
  k = Cast <to = 16> (w)
  z = If (c) <
    then_branch = a () => (bfloat16[N, 16] p) { [inner] p = MatMul (b, k) },
    else_branch = e () => (bfloat16[N, 16] q) { q = Identity (b) }
  >
  y = Cast <to = 1> (z)
}
"""
    proto = parser.parse_model(HEAD + text)
    weight = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model = bf16_products_in_float(ir.from_proto(onnx.shape_inference.infer_shapes(proto)))
    body = next(graph for graph in all_graphs(model) if graph.name == "a")
    assert [node.op_type for node in body] == ["Cast", "Cast", "MatMul", "Cast"]
    assert body.outputs[0].dtype == ir.DataType.BFLOAT16
    x = np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32)
    actual = open_onnx(model, optimize=False)({"x": x, "c": np.array(True)})["y"]
    assert np.abs(actual - x @ weight).max() < 0.02 * np.abs(x @ weight).max()
