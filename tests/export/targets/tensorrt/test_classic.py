"""What only the classic library has: a timing cache, the device at hand, and plans without a stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

from aigc_export.errors import GraphRefusedError, PrecisionError
from aigc_export.targets.tensorrt import checks as trt_checks
from aigc_export.targets.tensorrt.build import BuiltTrt, build_trt
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_runtime.device.probe import Gpu, probe_device
from aigc_runtime.errors import InputError, OutputError

from .conftest import BATCH, FLOAT
from .fake_trt import PLAN, FakeTensorRT


def build(fake: FakeTensorRT, source: Path, *, requested: str | None = None, **settings: Any) -> BuiltTrt:
    return build_trt(
        fake.library,
        source,
        source.parent / "out.engine",
        BuildSettings(**settings),
        profiles=[BATCH],
        requested={} if requested is None else {"conv": requested},
        macs={"conv": 1},
    )


@pytest.fixture
def classic() -> FakeTensorRT:
    return FakeTensorRT(ahead_of_time=False)


# The timing cache


def test_a_timing_cache_is_read_and_written(classic: FakeTensorRT, conv: Path, tmp_path: Path) -> None:
    cache = tmp_path / "kept" / "cache"
    build(classic, conv, timing_cache=cache)
    assert (classic.held, cache.read_bytes()) == (b"", b"measured")
    build(classic, conv, timing_cache=cache)
    assert classic.held == b"measured"
    assert [p.name for p in cache.parent.iterdir()] == ["cache"]


def test_a_timing_cache_that_cannot_be_read(classic: FakeTensorRT, conv: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder, expected a plain file"):
        build(classic, conv, timing_cache=tmp_path)


def test_a_timing_cache_that_cannot_be_written(classic: FakeTensorRT, conv: Path, tmp_path: Path) -> None:
    """Nothing is left: the engine is not published without what was asked for beside it."""
    cache = tmp_path / "folder" / "cache"
    (tmp_path / "folder").mkdir()
    classic.on["build"] = cache.mkdir
    with pytest.raises(OutputError, match=r"cannot write .*cache"):
        build(classic, conv, timing_cache=cache)
    assert not (tmp_path / "out.engine").exists()


def test_an_unproven_build_teaches_the_timing_cache_nothing(classic: FakeTensorRT, conv: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_bytes(b"older")
    with pytest.raises(PrecisionError):
        build(classic, conv, requested="int8", timing_cache=cache)
    assert cache.read_bytes() == b"older"


# The device at hand


def fp8_conv(save: Any) -> Path:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dequantize"),
        helper.make_node("Conv", ["d", "w"], ["y"], name="conv"),
    ]
    constants = {"s": np.float32(0.1), "z": np.zeros((), ml_dtypes.float8_e4m3fn), "w": np.ones((8, 4, 3, 3), "f")}
    source: Path = save(nodes, constants, {"x": (FLOAT, ["batch", 4, 8, 8])}, ["y"])
    return source


def here(monkeypatch: pytest.MonkeyPatch, *capabilities: str) -> None:
    gpus = tuple(Gpu(name="a GPU", compute_capability=c, memory_bytes=8 << 30) for c in capabilities)
    monkeypatch.setattr(trt_checks, "probe_device", lambda *_: replace(probe_device(), gpus=gpus))


def test_a_type_that_the_device_here_cannot_multiply(
    classic: FakeTensorRT, save: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fp8_conv(save)
    here(monkeypatch, "8.6", "8.9")  # the library builds for the first
    with pytest.raises(GraphRefusedError, match=r"node 'quantize' holds FLOAT8E4M3FN .* capability 8\.6 cannot") as err:
        build(classic, source)
    assert err.value.hint == "choose another precision, or devices of 8.9 and later"
    here(monkeypatch, "8.9")
    assert build(classic, source).size_bytes == len(PLAN)
    here(monkeypatch)  # nobody knows
    assert build(classic, source).size_bytes == len(PLAN)


def test_the_classic_library_multiplies_floats_on_turing(
    classic: FakeTensorRT, save: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here(monkeypatch, "7.5")
    product = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    source = save([product], {"w": np.ones((4, 4), "f")}, {"x": (FLOAT, [2, 4])}, ["y"])
    assert build(classic, source).size_bytes == len(PLAN)


# Lifetimes


@pytest.mark.parametrize("ahead_of_time", [True, False])
@pytest.mark.parametrize(("streams", "place"), [(True, "write"), (True, "build"), (False, "build")])
def test_network_and_parser_live_until_the_engine_is_written(
    conv: Path, streams: bool, place: str, ahead_of_time: bool
) -> None:
    """The parser keeps a pointer to the network, and the network's weights are the parser's."""
    alive: list[list[bool]] = []
    fake = FakeTensorRT(ahead_of_time=ahead_of_time, streams=streams)
    fake.on[place] = lambda: alive.append([made() is not None for made in fake.made])
    build(fake, conv, compute_capabilities=("8.6",) if ahead_of_time else ())
    assert alive == [[True, True]]
