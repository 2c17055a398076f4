"""A ConvTranspose and the Conv of its phases are one function, to the last bit where all sums are whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import helper

from aigc_calibration.config import QuantConfig
from aigc_calibration.edit import finish
from aigc_calibration.emit import emit
from aigc_calibration.errors import PlanError
from aigc_calibration.formats import UNSIGNED_FORMAT
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.phases import by_phases, phases_of
from aigc_calibration.quantize import quantize
from aigc_runtime.core.compare import compare_arrays
from aigc_runtime.core.tensors import Array

from .conftest import Batches, Shape, make_graph

SCOPES = "pkg.torch.onnx.name_scopes"


def transposed(
    weight: Array, bias: Array | None = None, *, free: Any = ("h", "w"), constant: bool = True, **attributes: Any
) -> ir.Model:
    """y = ConvTranspose(x, weight, bias), for any batch and, unless it is said, for images of any size."""
    constants = {"w": weight} if bias is None else {"w": weight, "b": bias}
    node = helper.make_node("ConvTranspose", ["x", *constants], ["y"], "up", **attributes)
    channels = weight.shape[1] * attributes.get("group", 1)
    sides = [None] * (weight.ndim - 2)
    model = make_graph(
        [node], constants if constant else {}, {"x": ["n", len(weight), *free]}, {"y": ["n", channels, *sides]}
    )
    model.graph[0].metadata_props[SCOPES] = "['', 'model.net.up', 'up']"
    return model


def rewritten(model: ir.Model) -> ir.Model:
    node = next(n for n in model.graph if n.op_type == "ConvTranspose")
    phases = phases_of(node)
    assert phases is not None
    by_phases(model.graph, node, phases)
    finish(model.graph)
    return model


def whole(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(-9, 10, shape).astype(np.float32)


def check(
    model: ir.Model, weight: Array, bias: Array | None, shapes: Sequence[tuple[int, ...]], **options: Any
) -> None:
    """The rewritten graph, computed in float32, is PyTorch's function in float64."""
    run = open_onnx(model)
    rng = np.random.default_rng(1)
    for shape in shapes:
        x = whole(rng, *shape)
        operands = [None if a is None else torch.from_numpy(a.astype(np.float64)) for a in (x, weight, bias)]
        expected = torch.conv_transpose2d(*operands, **options).numpy()  # type: ignore[arg-type]
        np.testing.assert_array_equal(run({"x": x})["y"], expected, err_msg=f"{shape} {options}")


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("k", "s"), list(product(range(1, 6), range(1, 5))))
def test_the_phases_are_pytorchs_function(k: int, s: int, biased: bool, rng: np.random.Generator) -> None:
    """Every padding and output padding, images of any size and any batch by one graph."""
    weight, bias = whole(rng, 3, 2, k, k), whole(rng, 2) if biased else None
    for p, added in product(range(k), range(s)):
        given: dict[str, Any] = {"strides": [s, s], "pads": [p] * 4, "output_padding": [added] * 2}
        shapes = [
            (n, 3, h, w)
            for n, h, w in ((1, 1, 1), (2, 3, 5), (1, 4, 2))
            if min((size - 1) * s + k - 2 * p + added for size in (h, w)) > 0
        ]
        model = rewritten(transposed(weight, bias, **given))
        check(model, weight, bias, shapes, stride=s, padding=p, output_padding=added)


@pytest.mark.parametrize(("k", "s"), list(product(range(1, 6), range(2, 5))))
def test_whole_pixels_are_moved_where_the_width_is_known(k: int, s: int, rng: np.random.Generator) -> None:
    """Every padding and output padding, by a graph for images of one size; any batch."""
    weight, bias = whole(rng, 3, 2, k, k), whole(rng, 2)
    for p, added in product(range(k), range(s)):
        given: dict[str, Any] = {"strides": [s, s], "pads": [p] * 4, "output_padding": [added] * 2}
        model = transposed(weight, bias, free=(3, 5), **given)
        found = phases_of(model.graph[0])
        assert found is not None
        assert found.width is not None
        assert "DepthToSpace" not in {node.op_type for node in rewritten(model).graph}
        check(model, weight, bias, [(2, 3, 3, 5), (1, 3, 3, 5)], stride=s, padding=p, output_padding=added)


@pytest.mark.parametrize(("k", "s", "p"), [(4, 2, 1), (3, 2, 1), (3, 1, 1), (5, 3, 2)])
@pytest.mark.parametrize(("channels", "each", "groups"), [(4, 3, 2), (3, 1, 3), (3, 2, 3), (6, 1, 2)])
def test_groups(k: int, s: int, p: int, channels: int, each: int, groups: int, rng: np.random.Generator) -> None:
    weight, bias = whole(rng, channels, each, k, k), whole(rng, each * groups)
    model = rewritten(transposed(weight, bias, strides=[s, s], pads=[p] * 4, group=groups))
    check(model, weight, bias, [(2, channels, 3, 4)], stride=s, padding=p, groups=groups)


@pytest.mark.parametrize(
    ("kernel", "padding"), [((4, 4), (0, 0)), ((4, 4), (1, 1)), ((3, 5), (1, 2)), ((1, 4), (0, 1))]
)
@pytest.mark.parametrize("s", [1, 2])
def test_one_pixel_meets_no_padding(kernel: Any, padding: Any, s: int, rng: np.random.Generator) -> None:
    """A latent vector becomes an image: one tap of each phase, since the stride of one pixel is any."""
    weight, bias = whole(rng, 5, 2, *kernel), whole(rng, 2)
    given: dict[str, Any] = {"strides": [s, s], "pads": [*padding, *padding]}
    model = transposed(weight, bias, free=(1, 1), **given)
    found = phases_of(model.graph[0])
    assert found is not None
    assert found.taps == (1, 1)
    check(rewritten(model), weight, bias, [(3, 5, 1, 1)], stride=s, padding=padding)


@pytest.mark.parametrize("pads", [[0, 1, 2, 3], [3, 0, 1, 2], [1, 1, 0, 0]])
@pytest.mark.parametrize("kernel", [(4, 4), (5, 4), (4, 7)])
@pytest.mark.parametrize("s", [1, 2, 3])
def test_pads_that_differ_between_the_sides(
    kernel: tuple[int, int], pads: list[int], s: int, rng: np.random.Generator
) -> None:
    """PyTorch has none; the operator has."""
    weight, x = whole(rng, 3, 2, *kernel), whole(rng, 2, 3, 4, 5)
    given: dict[str, Any] = {"strides": [s, s], "pads": pads}
    expected = open_onnx(transposed(weight, **given))({"x": x})["y"]
    for free in (("h", "w"), (4, 5)):
        model = rewritten(transposed(weight, free=free, **given))
        np.testing.assert_array_equal(open_onnx(model)({"x": x})["y"], expected)


def test_real_numbers_differ_by_the_rounding_of_their_sums(rng: np.random.Generator) -> None:
    weight, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((64, 32, 4, 4), (2, 64, 8, 8)))
    model = rewritten(transposed(weight, strides=[2, 2], pads=[1] * 4))
    first, second = (torch.from_numpy(a.astype(np.float64)) for a in (x, weight))
    expected = torch.conv_transpose2d(first, second, stride=2, padding=1).numpy()
    sums = torch.conv_transpose2d(first.abs(), second.abs(), stride=2, padding=1).numpy()  # of magnitudes
    off = np.abs(open_onnx(model)({"x": x})["y"] - expected)
    assert (off <= np.finfo(np.float32).eps * 8 * sums).all()


PIXELS = ["Conv", "Transpose", "Reshape", "Transpose", "Reshape"]


@pytest.mark.parametrize(
    ("given", "free", "ops"),
    [
        ({"strides": [1, 1], "pads": [1] * 4}, ("h", "w"), ["Conv"]),
        ({"strides": [1, 1], "pads": [1] * 4}, (5, 5), ["Conv"]),
        ({"strides": [2, 2], "pads": [2] * 4}, ("h", "w"), ["Conv", "DepthToSpace"]),
        ({"strides": [2, 2], "pads": [1] * 4}, ("h", "w"), ["Conv", "DepthToSpace", "Slice"]),
        ({"strides": [2, 2], "pads": [2] * 4}, ("h", 5), [*PIXELS, "Transpose"]),
        ({"strides": [2, 2], "pads": [1] * 4}, ("h", 5), [*PIXELS, "Slice", "Transpose"]),
    ],
)
def test_what_stands_in_its_place(
    given: dict[str, Any], free: tuple[str | int, str | int], ops: list[str], rng: np.random.Generator
) -> None:
    """No more than is needed; under the names of the node and its values, and of its module."""
    model = rewritten(transposed(whole(rng, 3, 2, 4, 4), whole(rng, 2), free=free, **given))
    assert [node.op_type for node in model.graph] == ops
    assert model.graph[0].name == "up"
    assert {node.metadata_props[SCOPES] for node in model.graph} == {"['', 'model.net.up', 'up']"}
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert set(model.graph.initializers) >= {"w"}
    assert "b" not in model.graph.initializers


@pytest.mark.parametrize(
    ("shape", "given"),
    [
        ((3, 2, 4, 4), {"strides": [2, 1]}),
        ((3, 2, 3, 3), {"dilations": [2, 2]}),
        ((3, 2, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((3, 2, 3, 3), {"output_shape": [9, 9], "strides": [2, 2]}),
        ((3, 2, 2, 2), {"strides": [2, 2], "pads": [2] * 4}),
        ((3, 2, 3), {"strides": [2]}),
        ((3, 2, 3, 3, 3), {"strides": [2, 2, 2]}),
    ],
)
def test_what_is_left_alone(shape: tuple[int, ...], given: dict[str, Any], rng: np.random.Generator) -> None:
    model = transposed(whole(rng, *shape), free=[4] * (len(shape) - 2), **given)
    assert phases_of(model.graph[0]) is None


def test_constants_are_its_own(rng: np.random.Generator) -> None:
    weight = whole(rng, 2, 2, 3, 3)
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["u"], "one"),
        helper.make_node("ConvTranspose", ["u", "w"], ["v"], "other"),
        helper.make_node("Conv", ["v", "k"], ["y"], "conv"),
    ]
    shape: Shape = ["n", 2, None, None]
    model = make_graph(nodes, {"w": weight, "k": weight}, {"x": ["n", 2, "h", "w_"]}, {"y": shape})
    assert [phases_of(node) for node in model.graph] == [None] * 3


def generator(rng: np.random.Generator, *, groups: int = 1, **last: Any) -> tuple[ir.Model, Batches]:
    """A vector -> 4 x 4 -> 8 x 8 -> an image, by ConvTranspose alone."""

    def normal(*shape: int) -> Array:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(4 * shape[0]), np.float32)

    sizes = {"w1": (12, 16, 4, 4), "w2": (16, 8 // groups, 4, 4), "w3": (8, 3, 4, 4)}
    constants = {name: normal(*shape) for name, shape in sizes.items()} | {"b1": normal(16), "b2": normal(8)}
    given: dict[str, Any] = {"strides": [2, 2], "pads": [1] * 4}
    nodes = [
        helper.make_node("ConvTranspose", ["z", "w1", "b1"], ["c1"], "first"),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("ConvTranspose", ["r1", "w2", "b2"], ["c2"], "second", group=groups, **given),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("ConvTranspose", ["r2", "w3"], ["c3"], "third", **(given | last)),
        helper.make_node("Tanh", ["c3"], ["y"], "tanh"),
    ]
    model = make_graph(nodes, constants, {"z": ["n", 12, 1, 1]}, {"y": ["n", 3, None, None]})
    for node in model.graph:
        node.metadata_props[SCOPES] = repr(["", f"model.net.{node.name}", node.name])
    return model, Batches(tuple({"z": normal(8, 12, 1, 1)} for _ in range(4)))


def ops_of(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if not node.op_type.endswith("quantizeLinear")]


@pytest.mark.parametrize("groups", [1, 2])
def test_all_of_a_generator_runs_in_8_bits(groups: int, rng: np.random.Generator) -> None:
    """The plan names the modules as they are; the engine runs all of them as integers, with the plan's numbers."""
    model, data = generator(rng, groups=groups)
    found = quantize(model, data, QuantConfig(), precision="int8")
    assert [(op.module, op.op_type, op.precision) for op in found.plan.ops] == [
        (f"net.{name}", "ConvTranspose", "int8") for name in ("first", "second", "third")
    ]
    assert found.coverage.planned == found.coverage.executed == 1
    assert "ConvTranspose" not in ops_of(found.graph)
    assert ops_of(found.graph).count("DepthToSpace") == groups - 1
    assert found.float_graph is not None
    # The same plan with Q and DQ around the ConvTranspose, computed in float.
    plain = replace(UNSIGNED_FORMAT, phases=False, float_ops={}, integer_bias=False)
    other = emit(found.float_graph, found.plan, found.weights, plain)
    assert "ConvTranspose" in ops_of(other)
    for feeds in data.feeds:
        expected = open_onnx(model)(feeds)["y"]
        actual = open_onnx(found.graph)(feeds)["y"]
        assert compare_arrays(expected, actual).sqnr_db > 25
        assert compare_arrays(open_onnx(other, optimize=False)(feeds)["y"], actual).sqnr_db > 45


def test_a_module_that_stays_float_stays_what_it_is(rng: np.random.Generator) -> None:
    model, data = generator(rng)
    config = QuantConfig(keep_float=("net.second",), sensitive=("net.third",))
    found = quantize(model, data, config, precision="int8")
    assert found.coverage.float_sites == {
        "net.second": "asked to stay float",
        "net.third": "the configuration keeps it float",
    }
    ops = ops_of(found.graph)
    assert ops.count("ConvTranspose") == 2
    assert ops.count("Conv") == 1


def test_what_is_none_of_the_cases_stays_float_for_a_reason(rng: np.random.Generator) -> None:
    model, data = generator(rng, strides=[2, 1])
    found = quantize(model, data, QuantConfig(float_share=0.0), precision="int8")
    assert found.coverage.float_sites == {"net.third": "ONNX Runtime has no 8-bit ConvTranspose on a CPU"}
    plan = replace(found.plan, ops=tuple(replace(op, precision="int8") for op in found.plan.ops))
    assert found.float_graph is not None
    with pytest.raises(PlanError, match="'third' cannot be quantized: ONNX Runtime has no 8-bit ConvTranspose"):
        emit(found.float_graph, plan, found.weights, UNSIGNED_FORMAT)


def test_a_bias_far_beyond_the_products_fits_in_every_group(rng: np.random.Generator) -> None:
    """The scale that the groups share has room for the largest bias of all."""
    model, data = generator(rng, groups=2)
    bias = np.zeros(8, np.float32)
    bias[6] = 1e7
    model.graph.initializers["b2"].const_value = ir.tensor(bias, name="b2")
    found = quantize(model, data, QuantConfig(ranges="minmax"), precision="int8")
    assert {op.precision for op in found.plan.ops} == {"int8"}
