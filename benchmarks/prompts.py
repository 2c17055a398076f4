"""What reads a prompt: products of whole rows of codes beside those in blocks and in floats, and pieces of which size.

    python benchmarks/prompts.py
    python benchmarks/prompts.py --shape 2048x11264 --tokens 1 --tokens 16 --tokens 24
    python benchmarks/prompts.py --bundle out/smol-int8 --tokens 512 --tokens 2048

Prints, for weights of WIDTHxCOLUMNS and as many tokens, milliseconds of a product in floats, in blocks of 64 and of
whole rows (`graphs/passes/decoder/row_products.py`), and the last by the second. With a bundle of a language model,
milliseconds of a prompt of as many tokens, read by its first engine in pieces. Medians of alternating calls, two
threads; leave the machine alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aigc_export.cli.process import prepare_process

SHAPES = ("576x960", "576x3072", "576x576", "1536x576")
ROUNDS, THREADS = 25, 2
PIECES, ROUNDS_OF_PIECES = (64, 128, 256, 512, 1024, 2048), 5


def medians(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each, called in turn; the first two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 2):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if number > 1:
                times[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(found) for name, found in times.items()}


def product(width: int, columns: int, form: str) -> Any:
    """A session that multiplies rows of tokens [1, s, width] by a weight, in a form."""
    import onnx
    import onnx_ir as ir
    from onnx import TensorProto, helper

    from aigc_calibration.blocks import to_matmul_nbits
    from aigc_calibration.grids import GRIDS
    from aigc_calibration.onnx_file import to_proto
    from aigc_calibration.weights import round_to_blocks
    from aigc_export.graphs.passes.decoder.row_products import multiply_rows
    from aigc_runtime.backends.ort.open import import_onnxruntime, open_native
    from aigc_runtime.backends.ort.providers import PROVIDERS

    weight = np.random.default_rng(0).standard_normal((width, columns)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "s", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "s", columns])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model: ir.Model = ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )
    if form != "floats":
        block = 64 if form == "blocks" else width
        to_matmul_nbits(model.graph, model.graph.node(0), round_to_blocks("w", weight, GRIDS["int8"], block))
        model = multiply_rows(model, "s") if form == "rows" else model
    data = to_proto(model).SerializeToString()
    return open_native(import_onnxruntime(), data, provider=PROVIDERS["cpu"], threads=THREADS)[0]


def time_products(shapes: list[str], tokens: list[int]) -> None:
    """Print a line for each shape and number of tokens."""
    print(
        "| width x columns | tokens | floats, ms | blocks of 64 | whole rows | by blocks |\n| --- " + "| --- " * 5 + "|"
    )
    for shape in shapes:
        width, columns = map(int, shape.split("x"))
        sessions = {form: product(width, columns, form) for form in ("floats", "blocks", "rows")}
        for count in tokens:
            x = np.random.default_rng(1).standard_normal((1, count, width)).astype(np.float32)
            calls = {form: partial(one.run, None, {"x": x}) for form, one in sessions.items()}
            found = medians(calls, ROUNDS)
            shown = " | ".join(f"{found[form]:.2f}" for form in sessions)
            print(f"| {shape} | {count} | {shown} | {found['rows'] / found['blocks']:.2f}x |", flush=True)


def time_pieces(path: Path, tokens: list[int]) -> None:
    """Print a line for each number of tokens."""
    from aigc_runtime.bundle.bundle import Bundle
    from aigc_runtime.opening import open_session

    bundle = Bundle.open(path)
    session = open_session(bundle, engine=next(iter(bundle.manifest.engines)), threads=THREADS)

    def read(ids: Any, piece: int) -> None:
        state = session.new_state(1)
        for start in range(0, ids.shape[1], piece):
            part = ids[:, start : start + piece]
            last = np.array([part.shape[1] - 1])
            session.run({"input_ids": part, "pad_length": np.zeros(1, np.int64), "logits_to_keep": last}, state)

    print("| tokens | " + " | ".join(f"pieces of {piece}, ms" for piece in PIECES) + " |")
    print("| --- " * (1 + len(PIECES)) + "|")
    for count in tokens:
        ids = np.random.default_rng(0).integers(10, 250, (1, count))
        calls = {str(piece): partial(read, ids, piece) for piece in PIECES if piece <= count}
        found = medians(calls, ROUNDS_OF_PIECES)
        shown = " | ".join(f"{found[str(piece)]:.0f}" if piece <= count else "" for piece in PIECES)
        print(f"| {count} | {shown} |", flush=True)


def main() -> None:
    """Time products, or the pieces of a bundle's prompts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", help="WIDTHxCOLUMNS")
    parser.add_argument("--tokens", action="append", type=int)
    parser.add_argument("--bundle", type=Path, help="of a language model")
    given = parser.parse_args()
    prepare_process()
    if given.bundle is None:
        time_products(given.shape or list(SHAPES), given.tokens or [128, 512])
    else:
        time_pieces(given.bundle, given.tokens or [512, 2048])


if __name__ == "__main__":
    main()
