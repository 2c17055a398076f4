"""Weights go to files beside the graph: to one of its own, or to one that several graphs read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from aigc_calibration.onnx_file import SharedWeights, save_graph
from aigc_runtime.core.tensors import Array


def test_the_same_tensor_is_read_once(tmp_path: Path) -> None:
    reads: list[int] = []

    class Counted(ir.Tensor[Array]):
        def tobytes(self) -> bytes:
            reads.append(1)
            return super().tobytes()

    values = np.arange(600, dtype=np.float32)
    shared = SharedWeights(tmp_path / "shared.weights")
    tensor = Counted(values)
    assert shared.place(tensor) == shared.place(tensor)
    assert len(reads) == 1
    assert shared.place(ir.Tensor(values.copy())) == shared.place(tensor)  # equal bytes, another object
    assert (tmp_path / "shared.weights").stat().st_size == values.nbytes


def test_equal_weights_of_two_graphs_are_written_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    common = rng.standard_normal((40, 30)).astype(np.float32)

    def graph(own: Any) -> ir.Model:
        proto = onnx.helper.make_graph(
            [
                onnx.helper.make_node("MatMul", ["x", "common"], ["h"]),
                onnx.helper.make_node("MatMul", ["h", "own"], ["y"]),
            ],
            "g",
            [onnx.helper.make_tensor_value_info("x", 1, ["n", 40])],
            [onnx.helper.make_tensor_value_info("y", 1, ["n", 20])],
            [onnx.numpy_helper.from_array(common, "common"), onnx.numpy_helper.from_array(own, "own")],
        )
        model = onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
        return ir.from_proto(model)

    owns = [rng.standard_normal((30, 20)).astype(np.float32) for _ in range(2)]
    shared = SharedWeights(tmp_path / "shared.weights")
    x = rng.standard_normal((3, 40)).astype(np.float32)
    for i, own in enumerate(owns):
        model = graph(own)
        paths = save_graph(model, tmp_path / f"{i}.onnx", shared=shared)
        assert [path.name for path in paths] == [f"{i}.onnx", "shared.weights"]
        assert not isinstance(model.graph.initializers["own"].const_value, ir.ExternalTensor)  # the graph is as it was
    for i, own in enumerate(owns):
        session = onnxruntime.InferenceSession(tmp_path / f"{i}.onnx", providers=["CPUExecutionProvider"])
        (y,) = session.run(None, {"x": x})
        np.testing.assert_allclose(y, x @ common @ own, rtol=1e-4, atol=1e-4)
    written = (tmp_path / "shared.weights").stat().st_size
    assert common.nbytes + 2 * owns[0].nbytes <= written < common.nbytes + 2 * owns[0].nbytes + 3 * 64
