"""The values that all layers read say what a run adds, holds and where the angles of its steps are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from aigc_calibration.onnx_function import open_onnx
from aigc_export.graphs.passes.decoder.cache_pattern import match_append
from aigc_export.graphs.passes.decoder.step_values import StepValues
from aigc_runtime.core.tensors import Array

from .texts import graph, value


def values(rows: int, held: int, steps: int) -> dict[str, Array]:
    """Every value of a run, its table of factors [B, S, 4] that count up, its bias untouched."""
    model = graph(
        "float[b,2,p,4] past, float[b,2,s,4] new, float[b,s,8] x, float[b,s,4] cos => float[b,2,t,4] present",
        "present = Concat<axis = 2>(past, new)",
    )
    cache = match_append(value(model, "present"))
    assert cache is not None
    made: dict[tuple[object, ...], ir.Value] = {}
    shared = StepValues(model.graph, value(model, "x"), cache, made)
    wanted = {
        "held": shared.held(),
        "total": shared.total_32(),
        "places": shared.last_places(),
        "table": shared.table(value(model, "cos")),
        "row": shared.table_places(),
    }
    again = StepValues(model.graph, value(model, "x"), cache, made)
    assert again.last_places() is wanted["places"]
    assert again.take_nodes() == []
    model.graph.extend(shared.take_nodes())
    assert shared.take_nodes() == []
    kinds = {"table": ir.DataType.FLOAT, "total": ir.DataType.INT32, "places": ir.DataType.INT32}
    for name, one in wanted.items():
        one.name, one.type = name, ir.TensorType(kinds.get(name, ir.DataType.INT64))
        model.graph.outputs.append(one)
    feeds = {
        "past": np.zeros((rows, 2, held, 4), np.float32),
        "new": np.zeros((rows, 2, steps, 4), np.float32),
        "x": np.zeros((rows, steps, 8), np.float32),
        "cos": np.arange(rows * steps * 4, dtype=np.float32).reshape(rows, steps, 4),
    }
    return dict(open_onnx(model, optimize=False, packed=False)(feeds))


def test_a_single_step_behind_five() -> None:
    found = values(rows=3, held=5, steps=1)
    assert found["held"].tolist() == [5]
    assert found["total"].tolist() == [6]
    assert found["places"].tolist() == [5, 5, 5]
    assert found["row"].tolist() == [[0], [1], [2]]
    assert found["table"].shape == (3 + 6, 4)
    np.testing.assert_array_equal(found["table"][:3], np.arange(12).reshape(3, 4))
    assert not found["table"][3:].any()


def test_several_steps_of_two_rows() -> None:
    found = values(rows=2, held=5, steps=3)
    assert found["total"].tolist() == [8]
    assert found["places"].tolist() == [7, 7]
    assert found["row"].tolist() == [[0, 1, 2], [3, 4, 5]]
    np.testing.assert_array_equal(found["table"][:6], np.arange(24).reshape(6, 4))


def test_the_first_steps() -> None:
    found = values(rows=1, held=0, steps=4)
    assert found["places"].tolist() == [3]
    assert found["row"].tolist() == [[0, 1, 2, 3]]
