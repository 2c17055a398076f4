"""Graphs with graphs inside: If, Loop, Scan, functions, one in another, with weights in and around the bodies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper, parser
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator

from aigc_runtime.core.tensors import Array

HEAD = '<ir_version: 10, opset_import: ["" : 20, "own" : 1]>\n'

BRANCHES = (
    HEAD
    + """
branches (float[N, 16] x, bool flag) => (float[N, 8] y) {
  [first] h = MatMul (x, w)
  [relu] r = Relu (h)
  [choice] v = If (flag) <
    then_branch = then_body () => (float[N, 16] t) {
      [product] p = MatMul (r, inside)
      [shift] t = Add (p, b)
    },
    else_branch = else_body () => (float[N, 16] e) {
      [product] e = MatMul (r, w)
    }
  >
  [last] y = MatMul (v, out)
}
"""
)
"""`w` is read by a site and in a body, `r` by bodies alone, and both bodies call their product the same."""

STEPS = (
    HEAD
    + """
steps (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {
  [first] c = Conv <pads = [1, 1, 1, 1]> (x, k, kb)
  [times] n = Constant <value = int64 {3}> ()
  [yes] yes = Constant <value = bool {1}> ()
  [steps] s = Loop (n, yes, c) <
    body = step (int64 i, bool go, float[N, 4, 8, 8] v) => (bool again, float[N, 4, 8, 8] next) {
      [again] again = Identity (go)
      [conv] a = Conv <pads = [1, 1, 1, 1]> (v, inner, inner_b)
      [sum] d = Add (a, c)
      [tanh] next = Tanh (d)
    }
  >
  [relu] r = Relu (s)
  [last] z = Conv <pads = [1, 1, 1, 1]> (r, k2)
  [end] y = Tanh (z)
}
"""
)
"""`c`, the result of a site, is read in the body and enters the loop; `inner` is a constant around it."""

RECURRENCE = (
    HEAD
    + """
recurrence (float[T, 8] x, float[1, 8] start) => (float[1, 8] h, float[T, 1, 8] y) {
  [embed] e = MatMul (x, w)
  [scan] h, all = Scan <
    num_scan_inputs = 1,
    body = cell (float[1, 8] held, float[8] seen) => (float[1, 8] new, float[1, 8] shown) {
      [recur] q = MatMul (held, inside)
      [sum] z = Add (q, seen)
      [tanh] new = Tanh (z)
      [show] shown = Identity (new)
    }
  > (start, e)
  [last] y = MatMul (all, out)
}
"""
)

CALLS = (
    HEAD
    + """
calls (float[N, 16] x) => (float[N, 16] y, float[N, 16] z) {
  [one] h = own.layer <slope = 0.5> (x, w)
  [two] g = own.layer <slope = 0.2> (h, w2)
  [three] y, z = own.pair (g)
}
<domain: "own", opset_import: ["" : 20, "own" : 1]>
layer <slope> (a, weight) => (c) {
  t = MatMul (a, weight)
  c = LeakyRelu <alpha: float = @slope> (t)
}
<domain: "own", opset_import: ["" : 20, "own" : 1]>
pair (a) => (b, c) {
  fixed = Constant <value = float[16, 16] CONSTANT> ()
  b = MatMul (a, fixed)
  c = Relu (a)
}
"""
).replace("CONSTANT", "{" + ", ".join(f"{v:.3f}" for v in 0.3 * np.random.default_rng(5).standard_normal(256)) + "}")
"""`layer` is called twice with other attributes; `pair` holds its weight."""

NESTED = (
    HEAD
    + """
nested (float[N, 16] x, bool flag) => (float[N, 8] y) {
  [first] h = MatMul (x, w)
  [times] n = Constant <value = int64 {2}> ()
  [yes] yes = Constant <value = bool {1}> ()
  [steps] s = Loop (n, yes, h) <
    body = step (int64 i, bool go, float[N, 16] v) => (bool again, float[N, 16] next) {
      [again] again = Identity (go)
      [choice] next = If (flag) <
        then_branch = then_body () => (float[N, 16] t) { [call] t = own.layer (v, inside) },
        else_branch = else_body () => (float[N, 16] e) { [gemm] e = Gemm (h, w2) }
      >
    }
  >
  [last] y = MatMul (s, out)
}
<domain: "own", opset_import: ["" : 20, "own" : 1]>
layer (a, weight) => (c) {
  t = MatMul (a, weight)
  c = Tanh (t)
}
"""
)
"""A function in a body in a body; the inner bodies read values of both graphs around them."""

ONLY_INSIDE = (
    HEAD
    + """
only_inside (float[N, 16] x) => (float[N, 16] y) {
  [times] n = Constant <value = int64 {2}> ()
  [yes] yes = Constant <value = bool {1}> ()
  [steps] y = Loop (n, yes, x) <
    body = step (int64 i, bool go, float[N, 16] v) => (bool again, float[N, 16] next) {
      [again] again = Identity (go)
      [inner] p = MatMul (v, w)
      [tanh] next = Tanh (p)
    }
  >
}
"""
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A graph with graphs inside.

    Attributes:
        text: of it, without weights.
        weights: name -> shape, of the constants of the main graph.
        inside: the body, by its name, that a weight called `inside` lies in; empty for none.
        feeds: sizes -> inputs.
        outer: nodes of the products of the main graph, functions inlined.
        within: what the products in bodies lie in.
    """

    text: str
    weights: Mapping[str, tuple[int, ...]]
    feeds: Callable[[np.random.Generator, int], dict[str, Array]]
    outer: int
    within: tuple[str, ...]
    inside: str = ""

    def proto(self, seed: int = 0) -> onnx.ModelProto:
        """The model."""
        rng = np.random.default_rng(seed)
        model = parser.parse_model(self.text)
        for name, shape in self.weights.items():
            model.graph.initializer.append(_weight(rng, name, shape))
        if self.inside:
            body(model.graph, self.inside).initializer.append(_weight(rng, "inside", self._inner_shape))
        onnx.checker.check_model(model, full_check=True)
        return onnx.shape_inference.infer_shapes(model)

    @property
    def _inner_shape(self) -> tuple[int, ...]:
        size = self.weights["out"][0]
        return size, size

    def model(self, seed: int = 0) -> ir.Model:
        """The model in ONNX IR."""
        return ir.from_proto(self.proto(seed))

    def sets(self, count: int = 2, rows: int = 4) -> list[dict[str, Array]]:
        """Feeds of different sizes."""
        rng = np.random.default_rng(7)
        return [self.feeds(rng, rows + i) for i in range(count)]


def _weight(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> onnx.TensorProto:
    width = int(np.prod(shape[1:] if len(shape) > 2 else shape[:1]))
    return numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(width)).astype(np.float32), name)


def body(graph: onnx.GraphProto, name: str) -> onnx.GraphProto:
    """The body of that name, at any depth."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                inner: onnx.GraphProto = attribute.g
                if inner.name == name:
                    return inner
                try:
                    return body(inner, name)
                except KeyError:
                    continue
    raise KeyError(name)


def reference(model: onnx.ModelProto | ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What onnx's own evaluator gives: independent of ONNX Runtime and of all that is tested.

    It passes no attributes on to what a function calls (1.23), so that onnx's own inliner comes first, which in turn
    forgets defaults of attributes; and it does not run a Loop without a condition. The graphs above have neither.
    """
    proto = inline_local_functions(ir.to_proto(model) if isinstance(model, ir.Model) else model)
    names = [output.name for output in proto.graph.output]
    return dict(zip(names, map(np.asarray, ReferenceEvaluator(proto).run(names, dict(feeds))), strict=True))


def _rows(rng: np.random.Generator, rows: int) -> dict[str, Array]:
    return {"x": rng.standard_normal((rows, 16)).astype(np.float32)}


INNER: Mapping[str, Inner] = {
    "if": Inner(
        text=BRANCHES,
        weights={"w": (16, 16), "b": (16,), "out": (16, 8)},
        inside="then_body",
        feeds=lambda rng, rows: {**_rows(rng, rows), "flag": np.array(rows % 2 == 0)},
        outer=2,
        within=("a body of the If 'choice'",) * 2,
    ),
    "loop": Inner(
        text=STEPS,
        weights={"k": (4, 3, 3, 3), "kb": (4,), "inner": (4, 4, 3, 3), "inner_b": (4,), "k2": (4, 4, 3, 3)},
        feeds=lambda rng, rows: {"x": rng.standard_normal((rows, 3, 8, 8)).astype(np.float32)},
        outer=2,
        within=("a body of the Loop 'steps'",),
    ),
    "scan": Inner(
        text=RECURRENCE,
        weights={"w": (8, 8), "out": (8, 8)},
        inside="cell",
        feeds=lambda rng, rows: {
            "x": rng.standard_normal((rows, 8)).astype(np.float32),
            "start": np.zeros((1, 8), np.float32),
        },
        outer=2,
        within=("a body of the Scan 'scan'",),
    ),
    "function": Inner(text=CALLS, weights={"w": (16, 16), "w2": (16, 16)}, feeds=_rows, outer=3, within=()),
    "nested": Inner(
        text=NESTED,
        weights={"w": (16, 16), "w2": (16, 16), "out": (16, 8)},
        inside="then_body",
        feeds=lambda rng, rows: {**_rows(rng, rows), "flag": np.array(rows % 2 == 0)},
        outer=2,
        within=("a body of the If 'choice'",) * 2,
    ),
}
"""Name -> graph."""
