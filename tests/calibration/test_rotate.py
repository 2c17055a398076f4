"""A rotated graph computes the same, and no channel of its streams is larger than the others."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from aigc_calibration.collect import collect
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.prepare import prepare
from aigc_calibration.residual_streams import residual_streams
from aigc_calibration.rotate import rotate, rotation
from aigc_calibration.sites import weight_array
from aigc_runtime.core.tensors import Array

from .conftest import Batches, small_network
from .decoder import LAYERS, WIDTH, Norm, decoder


@pytest.mark.parametrize("width", [2, 3, 24, 96])
def test_a_rotation_is_orthogonal_and_keeps_means(width: int) -> None:
    matrix = rotation(width)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(width), atol=1e-12)
    np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=1e-12)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    assert np.array_equal(matrix, rotation(width))
    assert width == 2 or not np.allclose(matrix, rotation(width, seed=1))


def test_a_rotation_mixes_every_channel_with_all_others() -> None:
    assert np.abs(rotation(96)).max() < 0.6


def results(model: ir.Model, data: Batches) -> Array:
    run = open_onnx(model)
    return np.concatenate([run(feeds)["y"] for feeds in data.feeds])


@pytest.mark.parametrize("norm", ["rms", "layer", "written out"])
def test_nothing_changes_but_the_stream(norm: Norm) -> None:
    model, data = decoder(norm, loud=100.0)
    made, count = rotate(model)
    assert count == 1
    np.testing.assert_allclose(results(made, data), results(model, data), rtol=0, atol=2e-4)
    assert not np.allclose(weight_array(made, "table"), weight_array(model, "table"))
    values = {v.name for node in made.graph for v in node.outputs}
    assert {f"{name}_rotated" for name in residual_streams(model)[0].values} <= values
    assert not set(residual_streams(model)[0].values) & values
    assert residual_streams(model)[0].norms[0].gain in model.graph.initializers  # a copy was changed
    assert {n.name for n in made.graph} >= {"up_0", "down_0", "head_product"}
    gains = {name for name in made.graph.initializers if name.startswith("gain")}
    assert len(gains) == (LAYERS + 1 if norm == "layer" else 0)
    assert all((weight_array(made, name) == 1).all() for name in gains)


def test_a_bias_of_a_norm_in_front_of_a_result() -> None:
    model, data = decoder("layer", head_bias=False)
    made, _ = rotate(model)
    assert [value.name for value in made.graph.outputs] == ["y"]
    np.testing.assert_allclose(results(made, data), results(model, data), rtol=0, atol=2e-4)
    assert next(n for n in made.graph if n.name == "head_product").outputs[0].name == "y_product"


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_no_channel_is_loud_any_more(norm: Norm) -> None:
    model, data = decoder(norm, loud=100.0)

    def largest(graph: ir.Model, value: str) -> float:
        """The largest magnitude of a channel over that of the median one."""
        seen = collect(graph, data, (), channels={value: -1}).tensors[value].channel_amax
        assert seen is not None
        return float(seen.max() / np.median(seen))

    assert largest(model, "h1") > 40
    assert largest(rotate(model)[0], "h1_rotated") < 5


def test_a_bias_of_a_norm_goes_where_there_is_room_for_it() -> None:
    """The last product has a bias that takes it; the others get one."""
    model, _ = decoder("layer")
    made, _ = rotate(model)
    assert not any(weight_array(made, f"bias_{y}").any() for y in ("n0", "n1", "end"))
    assert {n.name for n in made.graph} - {n.name for n in model.graph} == {f"up_{i}_norm_bias_add" for i in range(2)}
    moved = weight_array(model, "bias_end") @ weight_array(model, "head")
    np.testing.assert_allclose(
        weight_array(made, "head_bias"), weight_array(model, "head_bias") + moved, rtol=1e-5, atol=1e-6
    )


def test_a_graph_without_a_stream_is_as_it_was() -> None:
    model = prepare(small_network()[0])
    assert rotate(model) == (model, 0)


def test_weights_keep_their_shapes_and_names() -> None:
    model, _ = decoder()
    made, _ = rotate(model)
    for name, value in made.graph.initializers.items():
        assert weight_array(made, name).shape == weight_array(model, name).shape
        assert weight_array(made, name).dtype == weight_array(model, name).dtype
        assert value.name == name
    np.testing.assert_allclose(
        weight_array(made, "down0"), weight_array(model, "down0") @ rotation(WIDTH), rtol=1e-4, atol=1e-5
    )
