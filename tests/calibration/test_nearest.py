"""The indices of nearest-neighbor upsampling are those that ONNX Runtime's Resize copies from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from aigc_calibration.nearest import nearest_indices
from aigc_calibration.onnx_function import open_onnx

from .conftest import make_graph


@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("coordinates", ["asymmetric", "half_pixel"])
@pytest.mark.parametrize("scales", [(2, 2), (1, 3), (4, 1), (3, 5)])
def test_indices_are_onnx_runtimes(coordinates: str, rounding: str, scales: tuple[int, int]) -> None:
    modes: dict[str, Any] = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], "up", mode="nearest", **modes)
    constants = {"s": np.array([1, 1, *scales], np.float32)}
    model = make_graph([node], constants, {"x": ["n", 2, 3, 4]}, {"y": ["n", 2, 3 * scales[0], 4 * scales[1]]})
    found = nearest_indices(model.graph[0])
    x = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)
    expected = open_onnx(model)({"x": x})["y"]
    for axis, indices in found.items():
        x = x.take(indices, axis=axis)
    np.testing.assert_array_equal(x, expected)
    assert set(found) == {axis for axis, scale in ((2, scales[0]), (3, scales[1])) if scale != 1}


def test_the_defaults_of_the_operator() -> None:
    """`half_pixel` and `round_prefer_floor`; upsampling by two, each index comes twice."""
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], "up")
    model = make_graph([node], {"s": np.array([1, 1, 2, 2], np.float32)}, {"x": [1, 1, 2, 3]}, {"y": [1, 1, 4, 6]})
    found = nearest_indices(model.graph[0])
    assert {axis: indices.tolist() for axis, indices in found.items()} == {2: [0, 0, 1, 1], 3: [0, 0, 1, 1, 2, 2]}


@pytest.mark.parametrize(
    ("inputs", "attributes", "scales", "shape"),
    [
        (["x", "", "s"], {"mode": "linear"}, [1, 1, 2, 2], [1, 1, 4, 4]),
        (["x", "", "s"], {"coordinate_transformation_mode": "align_corners"}, [1, 1, 2, 2], [1, 1, 4, 4]),
        (["x", "", "s"], {}, [1, 1, 1.5, 2], [1, 1, 4, 4]),
        (["x", "", "s"], {}, [1, 1, 0.5, 0.5], [1, 1, 4, 4]),
        (["x", "", "s"], {}, [1, 1, 2, 2], [1, 1, "h", 4]),
        (["x", "", "s"], {"axes": [2, 3]}, [2, 2], [1, 1, 4, 4]),
        (["x", "", "", "s"], {}, [1, 1, 8, 8], [1, 1, 4, 4]),
    ],
)
def test_what_is_left_alone(
    inputs: list[str], attributes: dict[str, Any], scales: list[float], shape: list[Any]
) -> None:
    kind = np.int64 if len(inputs) == 4 else np.float32
    node = helper.make_node("Resize", inputs, ["y"], "up", **attributes)
    model = make_graph([node], {"s": np.array(scales, kind)}, {"x": shape}, {"y": [1, 1, None, None]})
    assert nearest_indices(model.graph[0]) == {}


def test_other_operators() -> None:
    model = make_graph([helper.make_node("Relu", ["x"], ["y"], "relu")], {}, {"x": [1]}, {"y": [1]})
    assert nearest_indices(model.graph[0]) == {}
