"""Refusals that name what works instead: Turing, and scratch memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from aigc_export.cli import run
from aigc_export.errors import GraphRefusedError
from aigc_export.targets.tensorrt import build as trt
from aigc_export.targets.tensorrt.build import BuiltTrt
from aigc_export.targets.tensorrt.library import Library
from aigc_export.targets.tensorrt.settings import MAX_WORKSPACE, BuildSettings
from aigc_runtime.errors import ConfigError

from .conftest import BATCH, FLOAT, HALF, build
from .fake_trt import FakeTensorRT

ONES = np.ones((64, 64), np.float32)


def product(save: Any, op: str, kind: int = FLOAT) -> Path:
    attributes = {"equation": "ij,jk->ik"} if op == "Einsum" else {}
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], name="cast", to=kind),
        helper.make_node(op, ["h", "w"], ["p"], name="product", **attributes),
        helper.make_node("Cast", ["p"], ["y"], name="back", to=FLOAT),
    ]
    weight = ONES if kind == FLOAT else ONES.astype(np.float16)
    source: Path = save(nodes, {"w": weight}, {"x": (FLOAT, [64, 64])}, ["y"])
    return source


def int8_product(save: Any) -> Path:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], name="weight_dequantize"),
        helper.make_node("MatMul", ["d", "wd"], ["y"], name="product"),
    ]
    constants = {"s": np.float32(0.1), "z": np.int8(0), "w": ONES.astype(np.int8)}
    source: Path = save(nodes, constants, {"x": (FLOAT, [64, 64])}, ["y"])
    return source


def for_turing(library: Library, source: Path, *more: str) -> BuiltTrt:
    return build(library, source, profiles=[], settings={"compute_capabilities": ("7.5", *more)})


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Einsum", "int8"])
def test_float_products_on_turing(rtx: Library, save: Any, op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = int8_product(save) if op == "int8" else product(save, op)
    with pytest.raises(GraphRefusedError, match=r"node 'product': TensorRT-RTX has no fp32 \w+ .*7\.5") as caught:
        for_turing(rtx, source, "8.6")
    assert caught.value.hint == "--precision fp16 builds for 7.5; or leave --compute-capability 7.5 out"
    monkeypatch.setattr(trt, "check_turing", lambda model, capabilities: None)  # what the library says by itself
    with pytest.raises(GraphRefusedError, match=r"Turing \(SM75\): FP32 GEMM is not supported") as caught:
        for_turing(rtx, source)
    assert "cudaError" not in str(caught.value)  # no driver is needed for what failed


def test_what_turing_does_take(rtx: Library, save: Any, conv: Path) -> None:
    assert build(rtx, conv, settings={"compute_capabilities": ("7.5",)}).size_bytes > 0
    assert for_turing(rtx, product(save, "MatMul", HALF)).size_bytes > 0
    attend = helper.make_node("Attention", ["q", "k", "v"], ["y"], name="attend")
    attention = save([attend], {}, {n: (FLOAT, [2, 2, 6, 16]) for n in "qkv"}, ["y"], opset=23)
    assert for_turing(rtx, attention).size_bytes > 0


# Scratch memory


def test_a_limit_that_no_kernel_fits(rtx: Library, save: Any) -> None:
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="up", strides=[2, 2], pads=[1] * 4)]
    weight = np.ones((128, 64, 4, 4), np.float32)
    source = save(nodes, {"w": weight}, {"x": (FLOAT, ["batch", 128, 64, 64])}, ["y"])
    batch = {"x": ((1, 128, 64, 64), (1, 128, 64, 64), (16, 128, 64, 64))}
    with pytest.raises(GraphRefusedError, match="within workspace limit") as caught:
        build(rtx, source, profiles=[batch], settings={"workspace_bytes": 1 << 20})
    assert caught.value.hint == "--workspace-mib is 1: give it more, or leave it out"
    assert "cudaError" not in str(caught.value)


@pytest.mark.parametrize("size", [0, (1 << 20) - 1, MAX_WORKSPACE + 1])
def test_limits_of_the_limit(size: int) -> None:
    with pytest.raises(ConfigError, match=f"workspace_bytes is {size}") as caught:
        BuildSettings(workspace_bytes=size)
    assert caught.value.hint == "must be 1 MiB to 1 TiB: --workspace-mib takes 1 to 1048576"


def test_the_largest_limit_is_taken(rtx: Library, conv: Path) -> None:
    assert build(rtx, conv, profiles=[BATCH], settings={"workspace_bytes": MAX_WORKSPACE}).size_bytes > 0


def test_a_limit_beyond_all_memory_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", "gan", "--target", "tensorrt-rtx", "--compute-capability", "8.6", "-o", str(tmp_path / "out")]
    assert run([*command, "--workspace-mib", "99999999999999"]) == 2
    assert "--workspace-mib takes 1 to 1048576" in capsys.readouterr().err


# The missing driver


DRIVER = "[checkMacros.cpp] Cuda Runtime (cudaError 35: CUDA driver version is insufficient for CUDA runtime version)"


@pytest.mark.parametrize(
    ("ahead_of_time", "says", "told"),
    [
        (True, (DRIVER, "node 'a' is odd", DRIVER), "graph: node 'a' is odd"),
        (True, (DRIVER,), f"graph: {DRIVER}"),
        (False, (DRIVER, "node 'a' is odd"), f"graph: {DRIVER}; node 'a' is odd"),
    ],
)
def test_a_missing_driver_is_told_where_it_matters(
    conv: Path, ahead_of_time: bool, says: tuple[str, ...], told: str
) -> None:
    fake = FakeTensorRT(ahead_of_time=ahead_of_time, says=says, builds=False)
    with pytest.raises(GraphRefusedError) as caught:
        build(fake.library, conv, settings={"compute_capabilities": ("8.6",) if ahead_of_time else ()})
    assert caught.value.message.endswith(told)
