"""Smoothing changes no result, and takes the outliers out of the activations."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.collect import collect
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.prepare import prepare
from aigc_calibration.smooth import SmoothGroup, smooth, smooth_scales, smoothable
from aigc_runtime.core.tensors import Array

from .conftest import Batches, initializer, make_graph, small_network


def gated(rng: np.random.Generator, outlier: float = 30.0) -> tuple[ir.Model, Batches]:
    """A gain, two products that read it, their product, and one more: the shape of a gated feed-forward block."""

    def normal(*shape: int) -> Array:
        return (rng.standard_normal(shape) / 4).astype(np.float32)

    gain = np.ones(16, np.float32)
    gain[3] = outlier
    up = normal(16, 24)
    up[:, 5] *= outlier
    constants = {"gain": gain, "up": up, "gate": normal(16, 24), "down": normal(24, 16)}
    nodes = [
        helper.make_node("Mul", ["x", "gain"], ["n"], "scale"),
        helper.make_node("MatMul", ["n", "up"], ["u"], "up_proj"),
        helper.make_node("MatMul", ["n", "gate"], ["g"], "gate_proj"),
        helper.make_node("Sigmoid", ["g"], ["s"], "sigmoid"),
        helper.make_node("Mul", ["s", "u"], ["h"], "product"),
        helper.make_node("MatMul", ["h", "down"], ["y"], "down_proj"),
    ]
    model = make_graph(nodes, constants, {"x": ["n", 16]}, {"y": ["n", 16]})
    return model, Batches(tuple({"x": rng.standard_normal((32, 16)).astype(np.float32)} for _ in range(3)))


def channels(model: ir.Model, data: Batches, groups: tuple[SmoothGroup, ...]) -> dict[str, Array]:
    found = {}
    for group in groups:
        seen = collect(model, data, (), channels={group.value: group.channel_axis}).tensors[group.value]
        assert seen.channel_amax is not None
        found[group.value] = seen.channel_amax
    return found


def spread(amax: Array) -> float:
    return float(amax.max() / np.median(amax))


def test_gains_and_products(rng: np.random.Generator) -> None:
    model, data = gated(rng)
    groups = smoothable(model)
    assert [(g.value, g.source, g.folds) for g in groups] == [
        ("n", "gain", (("gain", 0),)),
        ("h", "product", (("up", 1),)),
    ]
    before = channels(model, data, groups)
    smoothed = smooth(model, before, {"gain": 0.5, "product": 0.5})
    after = channels(smoothed, data, smoothable(smoothed))
    for name in ("n", "h"):
        assert spread(before[name]) > 8
        assert spread(after[name]) < spread(before[name]) / 3
    for feeds in data.feeds:
        a, b = open_onnx(model)(feeds)["y"], open_onnx(smoothed)(feeds)["y"]
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(np.abs(a).max()))


def test_layers_through_relu() -> None:
    model, data = small_network()
    ready = prepare(model)
    groups = smoothable(ready)
    assert {g.value: (g.source, g.channel_axis) for g in groups} == {
        "r1": ("layer", 1),
        "r2": ("layer", 1),
    }
    smoothed = smooth(ready, channels(ready, data, groups), {"layer": 0.7})
    for feeds in data.feeds:
        a, b = open_onnx(model)(feeds)["y"], open_onnx(smoothed)(feeds)["y"]
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_source_without_a_strength_is_left_alone(rng: np.random.Generator) -> None:
    model, data = gated(rng)
    groups = smoothable(model)
    smoothed = smooth(model, channels(model, data, groups), {"gain": 0.5})
    np.testing.assert_array_equal(initializer(smoothed, "down").numpy(), initializer(model, "down").numpy())
    after = channels(smoothed, data, groups)
    assert spread(after["h"]) == pytest.approx(spread(channels(model, data, groups)["h"]), rel=1e-3)


def test_what_is_read_elsewhere_is_not_smoothed(rng: np.random.Generator) -> None:
    model, _ = gated(rng)
    product = next(n for n in model.graph if n.name == "scale").outputs[0]
    extra = ir.node("Neg", [product], name="reader")
    model.graph.append(extra)
    assert "n" not in {g.value for g in smoothable(model)}


def test_scales_are_equation_4() -> None:
    x, w = np.array([1.0, 4.0, 16.0]), np.array([2.0, 2.0, 8.0])
    for alpha in (0.0, 0.5, 1.0):
        s = x**alpha / w ** (1 - alpha)
        np.testing.assert_allclose(smooth_scales(x, w, alpha), s / np.exp(np.log(s).mean()), rtol=1e-6)
    assert np.isfinite(smooth_scales(np.zeros(3), np.zeros(3), 0.5)).all()
