"""Attention of image models on ONNX Runtime: as products and a softmax, and as one operator; A B A B in one process.

    .venv/bin/python benchmarks/attention.py [--rounds 15] [--threads 2]

The sizes are those of Stable Diffusion 1.5 at 512 x 512 pixels, two rows of guidance, and of its decoder. Results are
compared before anything is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from aigc_runtime.backends.ort.rewrites import leave_out_rewrites
from aigc_runtime.core.tensors import Array

SIZES = (
    (2, 8, 4096, 4096, 40),
    (2, 8, 1024, 1024, 80),
    (2, 8, 256, 256, 160),
    (1, 1, 4096, 4096, 512),
    (2, 8, 4096, 77, 40),
    (2, 8, 1024, 77, 80),
    (2, 8, 256, 77, 160),
)
"""Rows, heads, places that ask, places that are asked, width of a head."""


def opened(size: tuple[int, ...], threads: int, *, fused: bool) -> onnxruntime.InferenceSession:
    """A graph of q [rows, places, heads * width], k and v of the same form -> the same form."""
    rows, heads, asking, asked, width = size
    arrays = {"q": asking, "k": asked, "v": asked}
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, places, heads * width])
        for name, places in arrays.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, asking, heads * width])
    scale = width**-0.5
    constants: list[Array] = []
    if fused:
        options = {"num_heads": heads, "scale": scale, "domain": "com.microsoft"}
        nodes = [helper.make_node("MultiHeadAttention", list(arrays), ["y"], **options)]
    else:
        constants = [
            np.array([rows, -1, heads, width]),
            np.array([rows, -1, heads * width]),
            np.array(scale, np.float32),
        ]
        nodes = [helper.make_node("Reshape", [name, "c0"], [f"{name}4"]) for name in arrays]
        for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            nodes.append(helper.make_node("Transpose", [f"{name}4"], [f"{name}t"], perm=order))
        nodes += [
            helper.make_node("Mul", ["qt", "c2"], ["scaled"]),
            helper.make_node("MatMul", ["scaled", "kt"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
            helper.make_node("MatMul", ["weights", "vt"], ["mixed"]),
            helper.make_node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", ["back", "c1"], ["y"]),
        ]
    held = [numpy_helper.from_array(np.asarray(one), f"c{i}") for i, one in enumerate(constants)]
    graph = helper.make_graph(nodes, "attention", inputs, [output], held)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = threads
    leave_out_rewrites(session)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return onnxruntime.InferenceSession(model, session, providers=["CPUExecutionProvider"])


def milliseconds(session: onnxruntime.InferenceSession, feeds: Mapping[str, Array]) -> float:
    started = time.perf_counter()
    session.run(None, dict(feeds))
    return 1e3 * (time.perf_counter() - started)


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    for size in SIZES:
        rows, heads, asking, asked, width = size
        places = {"q": asking, "k": asked, "v": asked}
        feeds = {n: rng.standard_normal((rows, p, heads * width), dtype=np.float32) for n, p in places.items()}
        plain, fused = (opened(size, given.threads, fused=one) for one in (False, True))
        np.testing.assert_allclose(plain.run(None, feeds)[0], fused.run(None, feeds)[0], rtol=1e-3, atol=1e-4)
        pairs = [(milliseconds(plain, feeds), milliseconds(fused, feeds)) for _ in range(given.rounds)]
        first, second = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{size}: {first:8.2f} ms as products, {second:8.2f} ms as one operator, {ratio:.2f}x", flush=True)


if __name__ == "__main__":
    main()
