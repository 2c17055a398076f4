"""Equalizing channels changes no result, and gives every channel of a result its share of the codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.calibrate import calibrate, smoothed
from aigc_calibration.collect import collect
from aigc_calibration.config import QuantConfig
from aigc_calibration.equalize import channel_groups, equalize, equalizing_scales
from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.prepare import prepare
from aigc_calibration.quantize import quantize
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError

from .conftest import Batches, Shape, make_graph

SIZE, CHANNELS = 6, 8
Nodes = list[onnx.NodeProto]


def normal(*shape: int, seed: int = 0) -> Array:
    draw = np.random.default_rng([*shape, seed]).standard_normal(shape)
    return np.asarray(draw / np.sqrt(np.prod(shape[1:])), np.float32)


def uneven(weight: Array) -> Array:
    """The same with channels from a twentieth to all of the largest."""
    factors = np.geomspace(0.05, 1, len(weight))
    return (weight * factors.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)


CONSTANTS: dict[str, Array | np.generic] = {
    "w1": uneven(normal(CHANNELS, 3, 3, 3)),
    "b1": uneven(normal(CHANNELS)),
    "w2": normal(5, CHANNELS, 3, 3, seed=1),
    "w3": normal(5, CHANNELS + 3, 3, 3, seed=2),
    "wt": normal(CHANNELS, 4, 2, 2, seed=3),
    "w_depthwise": normal(CHANNELS, 1, 3, 3, seed=4),
    "slope": np.linspace(-0.5, 1, CHANNELS, dtype=np.float32).reshape(CHANNELS, 1, 1),
    "rest": 1 - np.linspace(-0.5, 1, CHANNELS, dtype=np.float32).reshape(CHANNELS, 1, 1),
    "half": np.float32(-0.5),
    "twice": np.array([1, 1, 2, 2], np.float32),
    "flat": np.array([0, -1], np.int64),
    "more": np.float32(0.1),
    "one": np.array([0.25], np.float32),
}


def first(result: str = "c") -> onnx.NodeProto:
    return helper.make_node("Conv", ["x", "w1", "b1"], [result], "first", pads=[1] * 4)


def second(read: str, result: str = "y", weight: str = "w2") -> onnx.NodeProto:
    return helper.make_node("Conv", [read, weight], [result], f"reads_{read}_by_{weight}", pads=[1] * 4)


def network(nodes: Nodes, outputs: dict[str, Shape] | None = None, image: Shape = ("n", 3, SIZE, SIZE)) -> ir.Model:
    named = {entry for node in nodes for entry in node.input}
    given = {name: array for name, array in CONSTANTS.items() if name in named}
    return prepare(make_graph(nodes, given, {"x": image}, outputs or {"y": ["n", None, None, None]}))


def data_of(model: ir.Model, batches: int = 4) -> Batches:
    draw = np.random.default_rng(5)
    sizes = [8 if not isinstance(s, int) else s for s in model.graph.inputs[0].shape or ()]
    return Batches(tuple({"x": draw.standard_normal(sizes).astype(np.float32)} for _ in range(batches)))


def channels_of(model: ir.Model, data: Batches) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for group in channel_groups(model):
        seen = collect(model, data, (), channels=dict.fromkeys(group.watched, group.channel_axis)).tensors
        found.update({name: t.channel_amax for name, t in seen.items() if t.channel_amax is not None})
    return found


def check_same(model: ir.Model, other: ir.Model, data: Batches) -> None:
    for feeds in data.feeds:
        for name, array in open_onnx(model)(feeds).items():
            found = open_onnx(other)(feeds)[name]
            np.testing.assert_allclose(found, array, rtol=1e-4, atol=1e-5 * float(np.abs(array).max()))


def leaky(read: str = "c", result: str = "a") -> onnx.NodeProto:
    return helper.make_node("LeakyRelu", [read], [result], f"leaky_{result}", alpha=0.2)


def node(op: str, read: list[str], result: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, read, [result], f"{op}_{result}", **attributes)


THROUGH: dict[str, Nodes] = {
    "nothing": [first("a")],
    "LeakyRelu": [first(), leaky()],
    "Relu, and its shape": [first(), node("Relu", ["c"], "a"), node("Shape", ["c"], "s")],
    "PRelu": [first(), node("PRelu", ["c", "slope"], "a")],
    "PRelu in plain arithmetic": [
        first(),
        node("Mul", ["c", "slope"], "m"),
        node("Relu", ["c"], "p"),
        node("Mul", ["p", "rest"], "q"),
        node("Add", ["m", "q"], "a"),
    ],
    "factors": [
        first(),
        node("Mul", ["half", "c"], "m"),
        node("Div", ["m", "half"], "d"),
        node("Neg", ["x"], "z"),
        node("Relu", ["d"], "a"),
    ],
    "enlarged": [first(), leaky("c", "l"), helper.make_node("Resize", ["l", "", "twice"], ["a"], "up", mode="linear")],
    "pooled": [
        first(),
        node("MaxPool", ["c"], "m", kernel_shape=[2, 2]),
        node("AveragePool", ["m"], "a", kernel_shape=[2, 2]),
    ],
}


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("between", THROUGH.values(), ids=THROUGH.keys())
def test_what_factors_pass_through(between: Nodes, strength: float) -> None:
    extra: dict[str, Shape] = {"y": ["n", None, None, None]}
    if any(n.op_type == "Neg" for n in between):
        extra["z"] = ["n", None, None, None]
    model = network([*between, second("a")], extra)
    data = data_of(model)
    assert [(g.value, [r.first for r in g.readers]) for g in channel_groups(model)] == [(between[0].output[0], [0])]
    made, count = equalize(model, channels_of(model, data), strength)
    assert count == 1
    check_same(model, made, data)
    before, after = (channels_of(m, data)[between[0].output[0]] for m in (model, made))
    spread = [float(seen.max() / seen.min()) for seen in (before, after)]
    assert spread[1] < 1.5 * spread[0] ** (1 - strength)
    assert after.max() == pytest.approx(before.max(), rel=1e-5)


def test_channels_of_a_concatenation_grow_no_further_than_its_own() -> None:
    """A dense block: what is concatenated is read by two products, the channels at another place in each."""
    nodes = [
        first(),
        leaky(),
        node("Concat", ["x", "a"], "left", axis=1),
        node("Concat", ["a", "x"], "right", axis=-3),
        second("left", "y", "w3"),
        helper.make_node("Conv", ["right", "w4"], ["z"], "other", pads=[1] * 4),
    ]
    constants = {name: CONSTANTS[name] for name in ("w1", "b1", "w3")}
    constants["w4"] = normal(5, CHANNELS + 3, 3, 3, seed=9)
    outputs: dict[str, Shape] = {"y": ["n", 5, SIZE, SIZE], "z": ["n", 5, SIZE, SIZE]}
    model = prepare(make_graph(nodes, constants, {"x": ["n", 3, SIZE, SIZE]}, outputs))
    (group,) = channel_groups(model)
    assert [(r.site.node, r.first) for r in group.readers] == [("reads_left_by_w3", 3), ("other", 0)]
    data = data_of(model)
    seen = channels_of(model, data)
    made, _ = equalize(model, seen, 1.0)
    check_same(model, made, data)
    after = channels_of(made, data)
    for name in ("left", "right"):
        assert after[name].max() == pytest.approx(seen[name].max(), rel=1e-5)


def test_matrices_with_a_bias_between() -> None:
    """A feed-forward block with Relu: the bias is an operator of its own."""
    constants = {"w1": uneven(normal(12, 4)).T.copy(), "b1": uneven(normal(12)), "w2": normal(12, 3, seed=1)}
    nodes = [
        node("MatMul", ["x", "w1"], "m"),
        node("Add", ["b1", "m"], "b"),
        node("Relu", ["b"], "r"),
        node("MatMul", ["r", "w2"], "y"),
    ]
    model = prepare(make_graph(nodes, constants, {"x": ["n", 4]}, {"y": ["n", 3]}))
    (group,) = channel_groups(model)
    assert (group.channel_axis, group.folds) == (-1, (("w1", 1), ("b1", 0)))
    data = data_of(model)
    made, _ = equalize(model, channels_of(model, data), 1.0)
    check_same(model, made, data)
    after = channels_of(made, data)["m"]
    assert after.max() / after.min() < 3


def test_a_bias_of_more_than_the_layer() -> None:
    """A constant that is added behind a concatenation has channels that no factor is for."""
    constants = {"w1": normal(4, 12), "b": normal(16), "w2": normal(16, 3, seed=1)}
    nodes = [
        node("MatMul", ["x", "w1"], "m"),
        node("Concat", ["x", "m"], "j", axis=-1),
        node("Add", ["j", "b"], "s"),
        node("MatMul", ["s", "w2"], "y"),
    ]
    assert not channel_groups(prepare(make_graph(nodes, constants, {"x": ["n", 4]}, {"y": ["n", 3]})))
    beside = [nodes[0], nodes[1], node("MatMul", ["j", "w2"], "y")]
    del constants["b"]
    model = prepare(make_graph(beside, constants, {"x": ["n", 4]}, {"y": ["n", 3]}))
    assert [r.first for g in channel_groups(model) for r in g.readers] == [4]


LEFT: dict[str, Nodes] = {
    "a sum with something else": [first(), node("Conv", ["x", "w1"], "o", pads=[1] * 4), node("Add", ["c", "o"], "a")],
    "a function that is not homogeneous": [first(), node("Sigmoid", ["c"], "a")],
    "a constant that is added": [first(), node("Add", ["c", "more"], "a")],
    "a product with itself": [first(), node("Mul", ["c", "c"], "a")],
    "a reader that is no product": [first("a"), node("Sigmoid", ["a"], "s")],
    "a product by channel": [first(), node("Conv", ["c", "w_depthwise"], "a", group=CHANNELS, pads=[1] * 4)],
    "a weight that is read elsewhere": [first("a"), node("Relu", ["b1"], "s")],
    "a divisor": [first(), node("Abs", ["c"], "p"), node("Div", ["slope", "p"], "a")],
}


@pytest.mark.parametrize("nodes", LEFT.values(), ids=LEFT.keys())
def test_what_factors_do_not_pass_through(nodes: Nodes) -> None:
    outputs: dict[str, Shape] = {"y": ["n", None, None, None]}
    if any("s" in n.output for n in nodes):
        outputs["s"] = [None] * (1 if nodes[-1].input[0] == "b1" else 4)
    groups = channel_groups(network([*nodes, second("a")], outputs))
    assert "c" not in {g.value for g in groups}
    assert "a" not in {g.value for g in groups if not any(n.op_type == "Conv" and n.name != "first" for n in nodes)}


def test_a_result_of_the_graph_stays() -> None:
    outputs: dict[str, Shape] = {"y": ["n", None, None, None], "a": ["n", None, None, None]}
    assert not channel_groups(network([first(), leaky(), second("a")], outputs))
    assert not channel_groups(network([first("y")]))


def test_channels_that_are_flattened_are_left() -> None:
    constants = {"w1": CONSTANTS["w1"], "flat": CONSTANTS["flat"], "w2": normal(CHANNELS * SIZE * SIZE, 3)}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], "first", pads=[1] * 4),
        node("Reshape", ["c", "flat"], "a"),
        node("MatMul", ["a", "w2"], "y"),
    ]
    model = make_graph(nodes, constants, {"x": ["n", 3, SIZE, SIZE]}, {"y": ["n", 3]})
    assert not channel_groups(prepare(model))


def test_what_is_scaled_by_other_means_is_left() -> None:
    model = network([first(), leaky(), second("a")])
    assert channel_groups(model, leave=["b"])
    assert not channel_groups(model, leave=["a"])


def test_scales() -> None:
    result = np.array([8, 4, 1, 0, 1e-9], np.float32)
    alone = equalizing_scales(result, [], 1.0)
    np.testing.assert_allclose(alone, [1, 2, 8, 1, 256], rtol=1e-6)
    np.testing.assert_allclose(equalizing_scales(result, [], 0.5), np.sqrt(alone), rtol=1e-6)
    np.testing.assert_array_equal(equalizing_scales(result, [], 0.0), np.ones(5))
    # Behind a Relu a channel may be as large as any other already, and others may stand beside it.
    np.testing.assert_allclose(
        equalizing_scales(result, [(np.array([2, 4, 1, 0, 0], np.float32), 4.0)], 1.0), [1, 1, 4, 1, 256], rtol=1e-6
    )


@pytest.mark.parametrize("odd", [np.inf, np.nan])
def test_what_is_not_finite_leaves_all_as_it_is(odd: float) -> None:
    result = np.array([8, odd], np.float32)
    np.testing.assert_array_equal(equalizing_scales(result, [], 1.0), np.ones(2))
    np.testing.assert_array_equal(equalizing_scales(np.ones(2, np.float32), [(result, odd)], 1.0), np.ones(2))
    np.testing.assert_array_equal(equalizing_scales(np.zeros(2, np.float32), [], 1.0), np.ones(2))


@pytest.mark.parametrize("bad", [3.4e38, np.inf, 1e-33])
@pytest.mark.parametrize("name", ["w1", "b1", "w2"])
def test_constants_that_factors_would_spoil(name: str, bad: float) -> None:
    model = network([first(), leaky(), second("a")])
    data = data_of(model)
    seen = channels_of(model, data)
    constant = np.asarray(CONSTANTS[name]).copy()
    constant[...] = bad if bad < 1 else constant
    constant[0] = bad
    model.graph.initializers[name].const_value = ir.tensor(constant, name=name)
    assert equalize(model, seen, 0.5) == (model, 0)


def noise_of(model: ir.Model, data: Batches, config: QuantConfig) -> float:
    quantized = quantize(model, data, config, precision="int8")
    exact, found = (open_onnx(m)(data.feeds[0])["y"].astype(np.float64) for m in (model, quantized.graph))
    return float(np.square(found - exact).sum() / np.square(exact).sum())


def test_eight_bits_hold_uneven_channels() -> None:
    """The quiet channels decide here: what reads them multiplies them."""
    model = network([first(), leaky(), second("a")])
    weight = np.asarray(CONSTANTS["w2"]) / np.geomspace(0.05, 1, CHANNELS, dtype=np.float32).reshape(1, -1, 1, 1)
    model.graph.initializers["w2"].const_value = ir.tensor(np.asarray(weight, np.float32), name="w2")
    data = data_of(model)
    config = QuantConfig(ranges="mse", samples=32)
    plain, half = (noise_of(model, data, replace(config, equalize=strength)) for strength in (0.0, 0.5))
    assert half < plain / 4


def test_a_calibration_says_what_it_did_and_is_done_again() -> None:
    model = network([first(), leaky(), second("a")])
    data = data_of(model)
    calibration = calibrate(model, data, QuantConfig(samples=32), precision="int8")
    assert (calibration.equalization, set(calibration.channels)) == (0.5, {"c", "a"})
    made, transforms = smoothed(model, calibration)
    assert transforms == ("channels of 1 results equalized, strength 0.5",)
    check_same(model, made, data)
    none = calibrate(model, data, QuantConfig(samples=32, equalize=0.0), precision="int8")
    assert (none.equalization, dict(none.channels), smoothed(model, none)) == (0.0, {}, (model, ()))
    half = calibrate(model, data, QuantConfig(samples=32), precision="fp16")
    assert (half.equalization, dict(half.channels)) == (0.0, {})


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: replace(c, channels={}),
        lambda c: replace(c, equalization=0.0),
        lambda c: replace(c, channels={**c.channels, "c": c.channels["c"][1:]}),
    ],
)
def test_a_calibration_that_lacks_something(damage: Callable[[object], object]) -> None:
    model = network([first(), leaky(), second("a")])
    calibration = calibrate(model, data_of(model), QuantConfig(samples=32), precision="int8")
    with pytest.raises(CalibrationError, match="its channels are not those of the graph"):
        smoothed(model, damage(calibration))  # type: ignore[arg-type]


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_a_strength_lies_between_0_and_1(strength: float) -> None:
    with pytest.raises(ConfigError, match="equalize is"):
        QuantConfig(equalize=strength)
