"""Constants that are added to a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from aigc_calibration.edit import add_constant
from aigc_runtime.core.tensors import Array


def empty_graph() -> ir.Graph:
    return ir.Graph([], [], nodes=[], name="g", opset_imports={"": 20})


@pytest.mark.parametrize("given", [np.float32(3), 1 - np.array(-2, np.float32), np.array(3, np.float32)])
def test_a_number_without_dimensions_is_a_constant_that_can_be_written(given: Array | np.generic) -> None:
    """Numpy's arithmetic on arrays without dimensions gives plain numbers, whose type onnx_ir cannot write."""
    graph = empty_graph()
    value = add_constant(graph, "three", given)
    (written,) = ir.to_proto(graph).initializer
    assert (value.dtype, list(written.dims)) == (ir.DataType.FLOAT, [])
    assert ir.from_proto(written).numpy() == 3


def test_one_that_is_there_is_used_again_and_another_one_gets_another_name() -> None:
    graph = empty_graph()
    first = add_constant(graph, "a", np.arange(3))
    assert add_constant(graph, "a", np.arange(3)) is first
    second = add_constant(graph, "a", np.arange(4))
    assert (first.name, second.name) == ("a_2", "a")
    assert set(graph.initializers) == {"a", "a_2"}
