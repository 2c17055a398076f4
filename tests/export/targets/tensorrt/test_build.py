"""The builder on TensorRT-RTX: real builds; every trap made to happen; whatever fails leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

from aigc_export.errors import GraphRefusedError, PrecisionError
from aigc_export.targets.tensorrt import build as trt
from aigc_export.targets.tensorrt import log as trt_log
from aigc_export.targets.tensorrt import needs
from aigc_export.targets.tensorrt import write as trt_write
from aigc_export.targets.tensorrt.library import Library
from aigc_runtime.errors import CancelledError, ConfigError, InputError, OutputError

from .conftest import BATCH, FLOAT, HALF, INT64, build

Save = Callable[..., Path]
ONE = {"requested": {"conv": "fp32"}, "macs": {"conv": 100}}


def left(source: Path) -> list[str]:
    return sorted(p.name for p in source.parent.iterdir())


def test_an_engine_and_its_facts(rtx: Library, conv: Path) -> None:
    built = build(rtx, conv, **ONE)
    assert built.size_bytes == (conv.parent / "out.engine").stat().st_size > 10_000
    assert built.proof.work == {"fp32": 1.0}
    assert built.proof.source == "engine"
    assert built.device_memory_bytes is not None
    assert built.device_memory_bytes >= 8 * 4 * 9 * 4
    assert left(conv) == ["graph.onnx", "out.engine"]


def test_two_profiles_and_every_setting(rtx: Library, conv: Path) -> None:
    wide = {"x": ((1, 4, 8, 8), (8, 4, 8, 8), (16, 4, 8, 8))}
    settings = {"workspace_bytes": 64 << 20, "weight_streaming": True, "tf32": True, "compute_capabilities": ("12.0",)}
    assert build(rtx, conv, profiles=[BATCH, wide], settings=settings, **ONE).seconds > 0


# Precision


def quantized_conv(save: Save, kind: Any, *, op: str = "Conv", weight_only: bool = False, zero: int = 0) -> Path:
    shape = (8, 16, 3, 3) if op == "Conv" else (16, 8, 3, 3)
    axis = 0 if op == "Conv" else 1
    codes = np.random.default_rng(0).integers(-100, 100, shape).astype(kind)
    constants = {"s": np.float32(0.1), "z": np.array(zero, kind), "ws": np.full(8, 0.01, np.float32), "w": codes}
    constants["wz"] = np.zeros(8, kind)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], name="weight_dequantize", axis=axis),
        helper.make_node(op, ["x" if weight_only else "d", "wd"], ["y"], name="conv"),
    ]
    return save(nodes[2:] if weight_only else nodes, constants, {"x": (FLOAT, [1, 16, 8, 8])}, ["y"])


@pytest.mark.parametrize(("name", "kind"), [("int8", np.int8), ("fp8", ml_dtypes.float8_e4m3fn)])
def test_eight_bits_are_proven_from_the_compiled_layers(rtx: Library, save: Save, name: str, kind: Any) -> None:
    settings = {"compute_capabilities": ("8.9", "12.0")}
    requested = {"requested": {"conv": name}, "macs": {"conv": 7}, "profiles": [], "settings": settings}
    built = build(rtx, quantized_conv(save, kind), **requested)
    assert built.proof.work == {name: 1.0}
    assert (built.proof.requested, built.proof.built) == (1.0, 1.0)


def test_a_build_that_would_run_float_is_a_failure(rtx: Library, save: Save) -> None:
    """ConvTranspose with Q/DQ builds, the network says int8, and the compiled layer multiplies floats."""
    source = quantized_conv(save, np.int8, op="ConvTranspose")
    with pytest.raises(PrecisionError, match=r"100\.0% of the work .* 0\.0% is built so") as caught:
        build(rtx, source, requested={"conv": "int8"}, macs={"conv": 7}, profiles=[])
    assert "conv asked int8, network int8, built fp32" in str(caught.value)
    assert left(source) == ["graph.onnx"]


def test_weights_alone_in_8_bits_are_no_int8_product(rtx: Library, save: Save) -> None:
    source = quantized_conv(save, np.int8, weight_only=True)
    with pytest.raises(PrecisionError, match="conv asked int8, network fp32, built fp32"):
        build(rtx, source, requested={"conv": "int8"}, macs={"conv": 7}, profiles=[])


def test_a_library_that_lists_no_layers_proves_nothing(
    rtx: Library, conv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt_log, "layer_dump", lambda log: ())
    with pytest.raises(Exception, match="did not list the layers it compiled"):
        build(rtx, conv, **ONE)
    assert left(conv) == ["graph.onnx"]


# Traps: what builds and is wrong, or does not run


def attention(save: Save, *, kind: int = HALF, head: int = 16, nonpad: bool = False, causal: int = 0) -> Path:
    inputs = {n: (kind, [2, 2, 6, head]) for n in ("q", "k", "v")}
    names = ["q", "k", "v", "", "", "", "nonpad"] if nonpad else ["q", "k", "v"]
    if nonpad:
        inputs["nonpad"] = (INT64, [2])
    nodes = [
        helper.make_node("Attention", names, ["a"], name="attend", is_causal=causal),
        helper.make_node("Cast", ["a"], ["y"], name="cast", to=FLOAT),
    ]
    return save(nodes, {}, inputs, ["y"], opset=24 if nonpad else 23)


def test_attention_without_a_fused_kernel_is_split_and_built(rtx: Library, save: Save) -> None:
    assert build(rtx, attention(save, kind=FLOAT), profiles=[]).size_bytes > 0
    assert build(rtx, attention(save, head=8), profiles=[]).size_bytes > 0


def test_without_the_split_the_library_refuses_it(rtx: Library, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "_let_attention_decompose", lambda module, network: None)
    with pytest.raises(GraphRefusedError, match="decomposable"):
        build(rtx, attention(save, kind=FLOAT), profiles=[])


def test_a_causal_mask_in_the_corner(rtx: Library, save: Save) -> None:
    with pytest.raises(GraphRefusedError, match="node 'attend': Attention with is_causal"):
        build(rtx, attention(save, causal=1), profiles=[])


def test_a_dropped_input_is_named(rtx: Library, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GraphRefusedError, match="node 'attend': TensorRT drops Attention's nonpad_kv_seqlen"):
        build(rtx, attention(save, nonpad=True), profiles=[])
    monkeypatch.setattr(trt, "check_graph", lambda graph, capabilities: None)  # the parser's own line, on its own
    with pytest.raises(GraphRefusedError, match=r"drops the input 'nonpad' of 'attend'"):
        build(rtx, attention(save, nonpad=True), profiles=[])


def test_fp8_for_a_device_that_cannot(rtx: Library, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"compute_capabilities": ("8.6", "8.9")}
    source = quantized_conv(save, ml_dtypes.float8_e4m3fn)
    with pytest.raises(GraphRefusedError, match=r"node 'quantize' holds FLOAT8E4M3FN .* capability 8\.6"):
        build(rtx, source, profiles=[], settings=settings)
    monkeypatch.setattr(trt, "check_graph", lambda graph, capabilities: None)  # what the library says by itself
    with pytest.raises(GraphRefusedError, match=r"would not run on compute capability 8\.6, .*: .*fp8_e4m3"):
        build(rtx, source, profiles=[], settings=settings)
    assert left(source) == ["graph.onnx"]


def test_bf16_for_a_device_that_cannot(rtx: Library, save: Save) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], name="to_bf16", to=16),
        helper.make_node("MatMul", ["h", "w"], ["m"], name="product"),
        helper.make_node("Cast", ["m"], ["y"], name="back", to=FLOAT),
    ]
    source = save(nodes, {"w": np.ones((4, 4), ml_dtypes.bfloat16)}, {"x": (FLOAT, [2, 4])}, ["y"])
    with pytest.raises(GraphRefusedError, match=r"node 'to_bf16' holds BFLOAT16 .* 7\.5 cannot multiply"):
        build(rtx, source, profiles=[], settings={"compute_capabilities": ("7.5",)})


def test_what_the_parser_refuses_names_the_node(rtx: Library, save: Save) -> None:
    with pytest.raises(GraphRefusedError, match=r"'quantize'.*[Nn]on-zero zero point"):
        build(rtx, quantized_conv(save, np.int8, zero=3), profiles=[])
    antialias = helper.make_node("Resize", ["x", "", "s"], ["y"], name="shrink", mode="linear", antialias=1)
    source = save([antialias], {"s": np.array([1, 1, 0.5, 0.5], np.float32)}, {"x": (FLOAT, [1, 1, 8, 8])}, ["y"])
    with pytest.raises(GraphRefusedError, match="Resize 'shrink'"):
        build(rtx, source, profiles=[])


# Settings that the library cannot follow


@pytest.mark.parametrize("text", ["8.7", "9.0", "10.0"])
def test_an_unknown_capability(rtx: Library, conv: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"does not build for compute capability {text}") as caught:
        build(rtx, conv, settings={"compute_capabilities": ("8.6", text)}, **ONE)
    assert "7.5, 8.0, 8.6, 8.9, 12.0, 12.1" in caught.value.hint
    assert "--target tensorrt" in caught.value.hint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compute_capabilities": ()}, "needs the devices to build for"),
        ({"version_compatible": True}, "has no version compatibility"),
        ({"timing_cache": Path("cache")}, "has no timing cache"),
        ({"hardware_compatibility": "ampere_plus"}, "has no hardware compatibility"),
    ],
)
def test_settings_that_would_do_nothing(rtx: Library, conv: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(rtx, conv, settings=settings, **ONE)


def test_a_profile_that_contradicts_the_graph(rtx: Library, conv: Path) -> None:
    with pytest.raises((ConfigError, GraphRefusedError)):
        build(rtx, conv, profiles=[{"x": ((1, 5, 8, 8),) * 3}], **ONE)
    assert left(conv) == ["graph.onnx"]


# Progress, cancellation, and what is left


def test_progress_is_told(rtx: Library, conv: Path) -> None:
    seen: list[tuple[str, int, int]] = []

    def progress(phase: str, step: int, steps: int) -> bool:
        seen.append((phase, step, steps))
        return True

    build(rtx, conv, progress=progress, **ONE)
    assert seen
    assert all(1 <= step <= max(steps, 1) for _, step, steps in seen)


def test_cancellation_leaves_nothing(rtx: Library, conv: Path) -> None:
    with pytest.raises(CancelledError, match="was cancelled"):
        build(rtx, conv, progress=lambda *_: False, **ONE)
    assert left(conv) == ["graph.onnx"]
    build(rtx, conv, **ONE)  # the library can go on


def test_an_interrupt_from_the_keyboard_is_not_lost(rtx: Library, conv: Path) -> None:
    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(rtx, conv, progress=interrupt, **ONE)
    assert left(conv) == ["graph.onnx"]


def test_a_full_disk(rtx: Library, conv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    stream: Any = trt_write._stream
    monkeypatch.setattr(trt_write, "_stream", lambda module, file, *rest: stream(module, Full(file), *rest))
    with pytest.raises(OutputError, match="No space left"):
        build(rtx, conv, **ONE)
    assert left(conv) == ["graph.onnx"]


def test_not_enough_memory_or_disk_is_said_before(rtx: Library, conv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "available_memory", lambda: 1 << 20)
    with pytest.raises(InputError, match=r"building needs about 0\.4 GB of memory, 0\.0 GB are free"):
        build(rtx, conv, **ONE)
    monkeypatch.setattr(trt, "available_memory", lambda: None)
    monkeypatch.setattr(needs, "NODE_BYTES", 0)
    monkeypatch.setattr(needs, "KERNEL_BYTES", 1 << 60)
    with pytest.raises(OutputError, match="the engine needs about"):
        build(rtx, conv, **ONE)


def test_the_estimate_is_above_what_is_used(rtx: Library, conv: Path) -> None:
    built = build(rtx, conv, **ONE)
    assert built.size_bytes <= needs.estimate_needs(weight_bytes=conv.stat().st_size, nodes=1).disk_bytes
