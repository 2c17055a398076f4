"""Find products of 8-bit numbers that differ between processors, in the graph that ONNX Runtime runs.

Where a processor multiplies u8 by s8 numbers with saturation, a session asks ONNX Runtime for exact products
(`backends.exact_products`). That moves the codes of constant weights from s8 to u8, where they go beyond 64: two
products of 255 x 64 do fit into 16 bits. What it does not reach is found here, on any x86 machine: the graph is
optimized as on such a processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.bodies import proto_graphs, proto_nodes
from aigc_calibration.onnx_file import save_graph
from aigc_runtime.backends.ort.denormals import isolated
from aigc_runtime.backends.ort.exact_products import EXACT_PRODUCTS
from aigc_runtime.backends.ort.rewrites import leave_out_rewrites
from aigc_runtime.core.tensors import Array
from aigc_runtime.system.processor import instruction_set
from aigc_runtime.system.temporary_folder import temporary_folder

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["EXACT_SUFFIX", "LARGEST_EXACT", "Optimized", "optimized", "saturating"]

EXACT_SUFFIX = "_s8_2_u8"
"""What ONNX Runtime puts behind the name of a constant that it moved to u8."""

LARGEST_EXACT = 64
"""Magnitude of codes of which no pair saturates: 2 x 255 x 64 < 2^15."""

_SECOND = {
    "QLinearConv": (3, 5),
    "QLinearMatMul": (3, 5),
    "QGemm": (3, 5),
    "MatMulInteger": (1, 3),
    "MatMulIntegerToFloat": (1, 5),
    "DynamicQuantizeMatMul": (1, 3),
}
"""Operator -> its inputs: the second factor, and the zero point of it, which is of the same type.

MatMulNBits is not among them: its codes are small enough.
"""

_MOVES = frozenset({"amx_int8", "avx512_vnni", "avx512", "avx_vnni", "avx2"})
"""Instruction sets with kernels of their own for u8 by s8, where ONNX Runtime moves codes when it is asked to."""


_WEIGHTS_FILE = "session.optimized_model_external_initializers_file_name"
_WEIGHTS_SIZE = "session.optimized_model_external_initializers_min_size_in_bytes"


@dataclass(frozen=True, kw_only=True)
class Optimized:
    """What ONNX Runtime was given, and what it made of that: graphs whose large constants lie in files.

    Attributes:
        given: the graph before.
        runs: the graph after.
        folder: of the files, which are read as they are asked for: all at once they would be the model twice more.
    """

    given: onnx.ModelProto
    runs: onnx.ModelProto
    folder: str


@contextmanager
def optimized(model: ir.Model) -> Iterator[Optimized]:
    """Optimize a graph as ONNX Runtime does to run it, with exact products; the files go at the end of the block."""
    import onnx
    import onnxruntime

    with temporary_folder("optimized") as folder:
        paths = save_graph(model, folder / "model.onnx")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # it warns that an optimized graph fits this machine only, which is what we want
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry(EXACT_PRODUCTS, "1")
        leave_out_rewrites(options)
        if len(paths) > 1:
            options.add_session_config_entry(_WEIGHTS_FILE, "optimized.onnx.data")
            options.add_session_config_entry(_WEIGHTS_SIZE, "1024")
        isolated(lambda: onnxruntime.InferenceSession(str(paths[0]), options, providers=["CPUExecutionProvider"]))
        given, runs = (
            onnx.load(file, load_external_data=False) for file in (str(paths[0]), options.optimized_model_filepath)
        )
        yield Optimized(given=given, runs=runs, folder=str(folder))


def saturating(graph: onnx.GraphProto, folder: str = "") -> tuple[str, ...]:
    """Names of the products in an optimized graph whose second factor is left with signed codes beyond `LARGEST_EXACT`.

    Constants that lie in files are read from the folder. Nothing is found on a processor where ONNX Runtime has nothing
    to move, so there it says nothing.
    """
    from onnx import numpy_helper

    if instruction_set() not in _MOVES:
        return ()
    constants = {tensor.name: tensor for one in proto_graphs(graph) for tensor in one.initializer}

    def array(name: str) -> Array:
        return np.asarray(numpy_helper.to_array(constants[name], base_dir=folder))

    def signed(node: onnx.NodeProto) -> bool:
        factor, zero_point = (node.input[i] if i < len(node.input) else "" for i in _SECOND[node.op_type])
        if factor in constants:
            codes = array(factor)
            return codes.dtype == np.int8 and bool(np.abs(codes.astype(np.int16)).max(initial=0) > LARGEST_EXACT)
        # Of what is computed, only the zero point tells the type.
        return zero_point not in constants or array(zero_point).dtype == np.int8

    return tuple(node.name for node in proto_nodes(graph) if node.op_type in _SECOND and signed(node))
