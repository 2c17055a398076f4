"""Transposed convolutions in 8 bits: what puts their phases side by side, DepthToSpace or whole pixels.

    .venv/bin/python benchmarks/phases.py --threads 1

Between two convolutions of 1 x 1 each, of which the last gives floats; float, by DepthToSpace, and by whole pixels, in
turn. Times are of ONNX Runtime, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx import helper, numpy_helper, shape_inference

from aigc_calibration.config import QuantConfig
from aigc_calibration.onnx_file import to_proto
from aigc_calibration.quantize import quantize
from aigc_runtime.core.tensors import Array
from aigc_runtime.system.processor import instruction_set

SHAPES = ((64, 64, 3, 16), (64, 32, 3, 32), (128, 64, 4, 16), (256, 128, 4, 8), (64, 64, 2, 32))
"""(channels, channels of the result, side of the kernel, side of the image), of stride 2."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Batches, as a calibration reads them."""

    feeds: tuple[dict[str, Array], ...]

    @property
    def rows(self) -> int:
        """Rows of all batches."""
        return sum(len(one["x"]) for one in self.feeds)

    @property
    def samples(self) -> int:
        """Samples that the rows are of."""
        return self.rows

    def batches(self, _run: Any) -> Any:
        """Give the batches."""
        return iter(self.feeds)


def network(channels: int, made: int, kernel: int, side: int, *, known: bool) -> ir.Model:
    """Conv, ConvTranspose, Conv; of images of any size, whose phases DepthToSpace puts side by side, or of one."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(channels)).astype(np.float32), name)

    pads = [(kernel - 2) // 2] * 2 + [(kernel - 1) // 2] * 2
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"], name="first"),
        helper.make_node("ConvTranspose", ["p", "w"], ["q"], name="up", strides=[2, 2], pads=pads),
        helper.make_node("Conv", ["q", "b"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", channels, *((side, side) if known else ("h", "w"))])],
        [helper.make_tensor_value_info("y", 1, None)],
        [
            weight("a", channels, channels, 1, 1),
            weight("w", channels, made, kernel, kernel),
            weight("b", made, made, 1, 1),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    found: ir.Model = ir.from_proto(shape_inference.infer_shapes(model))
    return found


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=101)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    config = QuantConfig(float_share=0.0, ranges="minmax", equalize=0.0, weight_method="rtn")
    print(f"{instruction_set()}, {given.threads} threads, onnxruntime {onnxruntime.__version__}")
    for channels, made, kernel, side in SHAPES:
        shape = (4, channels, side, side)
        data = Samples(feeds=tuple({"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(4)))
        graphs = {"float": network(channels, made, kernel, side, known=True)}
        for name, known in (("DepthToSpace", False), ("whole pixels", True)):
            model = network(channels, made, kernel, side, known=known)
            graphs[name] = quantize(model, data, config, precision="int8").graph
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = given.threads
        sessions = {
            name: onnxruntime.InferenceSession(
                to_proto(graph).SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            for name, graph in graphs.items()
        }
        x = rng.standard_normal((1, *shape[1:])).astype(np.float32)
        results = {name: session.run(None, {"x": x})[0] for name, session in sessions.items()}
        assert np.array_equal(results["DepthToSpace"], results["whole pixels"])
        times: dict[str, list[float]] = {name: [] for name in sessions}
        for _ in range(given.rounds):
            for name, session in sessions.items():
                session.run(None, {"x": x})
                before = time.perf_counter()
                session.run(None, {"x": x})
                times[name].append(time.perf_counter() - before)
        told = ", ".join(f"{name} {1e6 * statistics.median(taken):.0f} us" for name, taken in times.items())
        print(f"{channels} -> {made} channels, kernel {kernel}, {side} x {side}: {told}")


if __name__ == "__main__":
    main()
