"""Nearest-neighbor upsampling of 8-bit codes in channels-last order on ONNX Runtime: Resize against two Gathers.

    .venv/bin/python benchmarks/upsampling.py

Times include a call of an empty graph, which is shown too. One thread; medians of alternating rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from aigc_runtime.core.tensors import Array

CALLS, ROUNDS = 200, 15


def opened(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], shape: tuple[int, ...]
) -> Callable[[], Array]:
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, shape)
    y = helper.make_tensor_value_info("y", TensorProto.UINT8, None)
    graph = helper.make_graph(nodes, "upsampling", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"x": np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)}
    return lambda: session.run(None, feeds)[0]


def ways(n: int, side: int, channels: int) -> dict[str, Callable[[], Array]]:
    shape = (n, side, side, channels)
    scales = numpy_helper.from_array(np.array([1, 2, 2, 1], np.float32), "s")
    twice = numpy_helper.from_array(np.repeat(np.arange(side), 2), "i")
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return {
        "nothing": opened([helper.make_node("Identity", ["x"], ["y"])], [], shape),
        "Resize": opened([helper.make_node("Resize", ["x", "", "s"], ["y"], **how)], [scales], shape),
        "two Gathers": opened(
            [
                helper.make_node("Gather", ["x", "i"], ["columns"], axis=2),
                helper.make_node("Gather", ["columns", "i"], ["y"], axis=1),
            ],
            [twice],
            shape,
        ),
    }


def main() -> None:
    for n, side, channels in ((1, 4, 96), (1, 8, 48), (16, 8, 48), (1, 8, 128), (16, 8, 128), (1, 32, 128)):
        runs = ways(n, side, channels)
        assert np.array_equal(runs["Resize"](), runs["two Gathers"]())
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, run in runs.items():
                started = time.perf_counter()
                for _ in range(CALLS):
                    run()
                times[name].append((time.perf_counter() - started) / CALLS * 1e6)
        found = {name: statistics.median(values) for name, values in times.items()}
        shown = ", ".join(f"{name} {us:.1f} us" for name, us in found.items())
        print(f"[{n}, {side}, {side}, {channels}] to twice the size: {shown}", flush=True)


if __name__ == "__main__":
    main()
