"""Graphs of a few nodes, built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_export.targets.tensorrt.build import BuiltTrt, build_trt
from aigc_export.targets.tensorrt.library import Library
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_runtime.core.tensors import Array

FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """save(nodes, constants, inputs, outputs): an ONNX file of them."""

    def write(
        nodes: Sequence[onnx.NodeProto],
        constants: dict[str, Any],
        inputs: dict[str, tuple[int, list[Any]]],
        outputs: Sequence[str],
        opset: int = 20,
    ) -> Path:
        graph = helper.make_graph(
            list(nodes),
            "graph",
            [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items()],
            [helper.make_tensor_value_info(n, FLOAT, None) for n in outputs],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        onnx.save(model, tmp_path / "graph.onnx")
        return tmp_path / "graph.onnx"

    return write


def small_conv(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """One convolution of 4 channels to 8: 4 * 8 * 9 multiply-accumulates a pixel."""
    weight = rng.standard_normal((8, 4, 3, 3)).astype(np.float32)
    return [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1] * 4)], {"w": weight}


@pytest.fixture
def conv(save: Callable[..., Path]) -> Path:
    """The convolution of `small_conv` on a batch of any size."""
    nodes, constants = small_conv(np.random.default_rng(0))
    return save(nodes, constants, {"x": (FLOAT, ["batch", 4, 8, 8])}, ["y"])


BATCH = {"x": ((1, 4, 8, 8), (2, 4, 8, 8), (4, 4, 8, 8))}


def build(library: Library, source: Path, **changes: Any) -> BuiltTrt:
    """Build quickly, for one device, one product asked for in fp32."""
    settings = BuildSettings(
        **{"compute_capabilities": ("8.6",), "optimization_level": 0, **changes.pop("settings", {})}
    )
    arguments: dict[str, Any] = {"profiles": [BATCH], "requested": {}, "macs": {}, **changes}
    return build_trt(library, source, source.parent / "out.engine", settings, **arguments)
