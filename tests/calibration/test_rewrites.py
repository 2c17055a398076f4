"""What ONNX Runtime makes of a quantized graph: nothing that the plan does not say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper

from aigc_calibration.collect import collect
from aigc_calibration.config import QuantConfig
from aigc_calibration.emit import FORMS, emit
from aigc_calibration.floatgraph import open_graph
from aigc_calibration.planner import make_plan, round_weights, watched
from aigc_runtime.backends.ort_open import import_onnxruntime, open_native
from aigc_runtime.compare import compare_arrays
from aigc_runtime.providers import PROVIDERS
from aigc_runtime.tensors import Array

from .conftest import Batches, make_graph


def chain(op: str, rng: np.random.Generator) -> tuple[ir.Model, Batches]:
    """Three layers without anything between them; a channel of the second is a thousand times smaller."""

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    small = normal(4, 4, 3, 3)
    small[:, 1] *= 1e-3
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "first", pads=[1] * 4),
        helper.make_node(op, ["c1", "w2", "b2"], ["c2"], "second", pads=[1] * 4),
        helper.make_node("Conv", ["c2", "w3", "b3"], ["c3"], "third", pads=[1] * 4),
        helper.make_node("Tanh", ["c3"], ["y"], "tanh"),
    ]
    constants = {"w1": normal(4, 2, 3, 3), "w2": small, "w3": normal(4, 4, 3, 3)}
    constants |= {"b1": normal(4), "b2": normal(4), "b3": normal(4)}
    model = make_graph(nodes, constants, {"x": ["n", 2, 4, 4]}, {"y": ["n", 4, 4, 4]})
    return model, Batches(({"x": normal(8, 2, 4, 4)},))


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_float_layer_between_quantised_ones_stays_float(op: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """In the engine as a device opens it. ONNX Runtime by itself rounds the weight to one scale for all channels."""
    model, data = chain(op, rng)
    plan = make_plan(model, collect(model, data, watched(model)), QuantConfig(), precision="int8")
    plan = plan.with_float({"second": "kept"})
    proto = ir.to_proto(emit(model, plan, round_weights(model, plan), FORMS["ort-cpu"]))
    feeds = data.feeds[0]
    literal = open_graph(ir.from_proto(proto), optimise=False)(feeds)["y"]
    session, _ = open_native(import_onnxruntime(), proto.SerializeToString(), provider=PROVIDERS["cpu"], threads=1)
    # Sums of integers are exact, so that only a code on an edge can fall to the other side.
    assert compare_arrays(literal, session.run(None, feeds)[0]).sqnr_db > 60
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made = {name for node in onnx.load(tmp_path / "optimised.onnx").graph.node for name in node.input}
    assert any(name.startswith("second_weight_q") for name in made)  # what would happen without the option
