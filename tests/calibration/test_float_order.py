"""Sites are ordered by the harm that they do to the outputs for their work; each mix is measured end to end."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from onnx import helper

from aigc_calibration import float_order
from aigc_calibration.config import QuantConfig
from aigc_calibration.emit import emit
from aigc_calibration.float_order import FloatOrder, order_sites
from aigc_calibration.formats import SIGNED_FORMAT, UNSIGNED_FORMAT, QdqFormat
from aigc_calibration.onnx_function import OnnxFunction, open_onnx
from aigc_calibration.plan import PRECISIONS
from aigc_calibration.quantize import Quantized, quantize, with_sites_float
from aigc_calibration.roles import by_role
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import CancelledError

from .conftest import Batches, Shape, make_graph

WIDTH, ROWS, LAYERS = 32, 64, 8
SPOILED = "layer_5"


@pytest.fixture(scope="module")
def subject() -> tuple[Quantized, Batches]:
    """A chain of residual products, one of which reads a value that has a number 2000 times as large in channel 0.

    Its weight leaves that channel out, so that it harms nothing but the range.
    """
    rng = np.random.default_rng(0)
    nodes, constants = [], {}
    for i in range(LAYERS):
        name, x = f"layer_{i}", "x" if i == 0 else f"h{i}"
        weight = (rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32)
        read = x
        if name == SPOILED:
            weight[0] = 0
            constants["loud"] = np.eye(1, WIDTH, dtype=np.float32)[0] * 2000
            nodes.append(helper.make_node("Add", [x, "loud"], ["louder"], "loud_sum"))
            read = "louder"
        constants[f"W{i}"] = weight
        nodes.append(helper.make_node("MatMul", [read, f"W{i}"], [f"y{i}"], name))
        nodes.append(helper.make_node("Tanh", [f"y{i}"], [f"t{i}"], f"tanh_{i}"))
        nodes.append(helper.make_node("Add", [x, f"t{i}"], [f"h{i + 1}"], f"sum_{i}"))
    shape: Shape = ["n", ROWS, WIDTH]
    model = make_graph(nodes, constants, {"x": shape}, {f"h{LAYERS}": shape})
    data = Batches(tuple({"x": rng.standard_normal((1, ROWS, WIDTH)).astype(np.float32)} for _ in range(24)))
    return quantize(model, data, QuantConfig(ranges="minmax"), precision="int8"), data


def ordered(found: Quantized, data: Batches, **more: object) -> FloatOrder:
    assert found.float_graph is not None
    return order_sites(
        found.float_graph,
        found.plan,
        found.weights,
        data.feeds[:1],
        UNSIGNED_FORMAT,
        outputs=[f"h{LAYERS}"],
        evaluations=24,
        threads=1,
        **more,  # type: ignore[arg-type]
    )


def test_the_site_that_does_the_harm_comes_first(subject: tuple[Quantized, Batches]) -> None:
    order = ordered(*subject)
    assert len(order.nodes) == LAYERS
    assert order.nodes[0] == SPOILED
    assert order.share(SPOILED) > 0.9
    assert order.measured(1) < 0.1 * order.measured(0)
    assert order.measured(LAYERS) == 0
    assert set(order.work.values()) == {ROWS * WIDTH * WIDTH}
    assert order.work_left(2) == 0.75
    assert [order.most(least) for least in (1.0, 0.5, 0.1)] == [0, 4, 7]
    assert order.predicted(LAYERS) == 0


def test_the_graph_is_let_go_with_the_order(
    subject: tuple[Quantized, Batches], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: another graph with all weights is loaded next."""
    opened: list[weakref.ref[OnnxFunction]] = []

    def noting(*given: Any, **named: Any) -> OnnxFunction:
        run = open_onnx(*given, **named)
        opened.append(weakref.ref(run))
        return run

    monkeypatch.setattr(float_order, "open_onnx", noting)
    gc.disable()
    try:
        order = ordered(*subject)
        again = order.again((SPOILED,))
        assert opened[0]() is not None
        del order, again
        assert opened[0]() is None
    finally:
        gc.enable()


def test_what_is_measured_is_what_the_emitted_graph_does(subject: tuple[Quantized, Batches]) -> None:
    found, data = subject
    order = ordered(found, data)
    made = with_sites_float(found, order.nodes[:3], "for a test", note="three", data=data, config=QuantConfig())
    exact, run = open_onnx(found.float_graph), open_onnx(made.graph)  # type: ignore[arg-type]
    name, feeds = f"h{LAYERS}", data.feeds[0]
    x = exact(feeds)[name].astype(np.float64)
    assert np.square(run(feeds)[name] - x).sum() / np.square(x).sum() == pytest.approx(order.measured(3), rel=0.05)
    assert {op.node: op.why for op in made.plan.ops if op.precision == "float"} == dict.fromkeys(
        order.nodes[:3], "for a test"
    )
    assert made.plan.notes[-1] == made.kept_float == "three"
    assert made.coverage.executed == made.coverage.planned == 5 / 8
    assert {op.weight for op in made.plan.quantized()} == set(made.weights)


def test_of_equal_harm_the_smaller_site_comes_first() -> None:
    """Two equal outputs, the second of a product that is followed by a product with ones."""
    rng = np.random.default_rng(1)
    small, large = (rng.standard_normal((WIDTH, n)).astype(np.float32) for n in (4, 64))
    nodes = [
        helper.make_node("MatMul", ["x", "S"], ["y"], "small"),
        helper.make_node("MatMul", ["x", "L"], ["z"], "large"),
    ]
    model = make_graph(
        nodes, {"S": small, "L": large}, {"x": ["n", ROWS, WIDTH]}, {"y": ["n", ROWS, 4], "z": ["n", ROWS, 64]}
    )
    data = Batches(tuple({"x": rng.standard_normal((1, ROWS, WIDTH)).astype(np.float32)} for _ in range(24)))
    found = quantize(model, data, QuantConfig(ranges="minmax", float_share=0.0), precision="int8")
    assert found.float_graph is not None
    order = order_sites(
        found.float_graph,
        found.plan,
        found.weights,
        data.feeds[:1],
        UNSIGNED_FORMAT,
        outputs=["y", "z"],
        evaluations=24,
        threads=1,
    )
    assert order.nodes == ("small", "large")


def test_the_others_are_measured_again_with_some_float(subject: tuple[Quantized, Batches]) -> None:
    order = ordered(*subject)
    again = order.again((SPOILED,))
    assert set(again.nodes) == set(order.nodes) - {SPOILED}
    assert again.work == order.work
    assert again.measured(0) == order.measured(1)
    assert again.without(again.nodes) == 0
    model = subject[0].float_graph
    assert model is not None
    for role in by_role(model, again.nodes):
        others = tuple(node for node in again.nodes if node not in role)
        assert sum(again.noise[node] for node in role) == pytest.approx(again.without(others))
    assert again.again(again.nodes[:2]).measured(0) == again.measured(2)


def test_a_progress_that_says_no_cancels(subject: tuple[Quantized, Batches]) -> None:
    with pytest.raises(CancelledError):
        ordered(*subject, progress=lambda *_: False)


@pytest.mark.parametrize("form", [UNSIGNED_FORMAT, SIGNED_FORMAT])
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_every_precision_with_activations_in_8_bits(precision: str, form: QdqFormat) -> None:
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["y"], "one"),
        helper.make_node("MatMul", ["y", "W2"], ["z"], "two"),
    ]
    shape: Shape = ["n", ROWS, WIDTH]
    model = make_graph(nodes, {"W": weight, "W2": weight.T.copy()}, {"x": shape}, {"z": shape})
    data = Batches(tuple({"x": rng.standard_normal((1, ROWS, WIDTH)).astype(np.float32)} for _ in range(24)))
    (known,) = (p for p in PRECISIONS if p == precision)
    found = quantize(model, data, QuantConfig(), precision=known, form=form, executed=lambda *_: None)
    assert found.float_graph is not None
    order = order_sites(
        found.float_graph, found.plan, found.weights, data.feeds[:1], form, outputs=["z"], evaluations=24, threads=1
    )  # fmt: skip
    run, exact = open_onnx(emit(found.float_graph, found.plan, found.weights, form), optimize=False), open_onnx(model)
    x = exact(data.feeds[0])["z"].astype(np.float64)
    alone = np.square(run(data.feeds[0])["z"] - x).sum() / np.square(x).sum()
    assert order.measured(0) == pytest.approx(alone, rel=0.2)


def test_whole_loops_are_compared_where_they_are_asked_for(subject: tuple[Quantized, Batches]) -> None:
    found, data = subject
    name = f"h{LAYERS}"

    def loop(run: OnnxFunction) -> list[dict[str, Array]]:
        x = data.feeds[0]["x"]
        for _ in range(3):
            x = run({"x": x / np.float32(2)})[name]
        return [{name: x}]

    order = ordered(found, data, answers=loop)
    assert found.float_graph is not None
    exact, low = loop(open_onnx(found.float_graph)), loop(open_onnx(found.graph))
    x = exact[0][name].astype(np.float64)
    assert np.square(low[0][name] - x).sum() / np.square(x).sum() == pytest.approx(order.measured(0), rel=0.1)
    assert order.measured(0) != pytest.approx(ordered(found, data).measured(0), rel=0.1)
    assert order.nodes[0] == SPOILED
