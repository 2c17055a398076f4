"""What a calibration sees, how it tells of it, and that it holds no more than one batch."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest

from aigc_calibration.calibrate import CALIBRATED, calibrate, check_kind, smoothed
from aigc_calibration.config import QuantConfig
from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_function import OnnxFunction, open_onnx
from aigc_calibration.plan import PRECISIONS, SitePrecision
from aigc_calibration.prepare import prepare
from aigc_runtime.core.tensors import Array

from .conftest import Batches, small_network

SMOOTH = QuantConfig(equalize=0.5, smooth={"layer": 0.5})


def test_ranges_are_those_of_the_smoothed_graph(network: tuple[ir.Model, Batches]) -> None:
    graph, data = prepare(network[0]), network[1]
    found = calibrate(graph, data, SMOOTH, precision="int8")
    run = open_onnx(graph, expose=["r1", "r2"])
    for name in ("r1", "r2"):
        values = np.concatenate([run(f)[name] for f in data.feeds[:4]])  # 32 of 48 rows
        np.testing.assert_array_equal(found.channels[name], np.abs(values).max(axis=(0, 2, 3)))
    made, transforms = smoothed(graph, found)
    run = open_onnx(made, expose=["r1"])
    after = np.concatenate([run(f)["r1"] for f in data.feeds])
    assert found.statistics.tensors["r1"].histogram.high == after.max()
    assert after.max() != np.concatenate([open_onnx(graph, expose=["r1"])(f)["r1"] for f in data.feeds]).max()
    assert transforms == ("channels of 1 results equalized, strength 0.5", "SmoothQuant on 2 values, {'layer': 0.5}")


def test_sixteen_bits_need_results_and_no_smoothing(network: tuple[ir.Model, Batches]) -> None:
    graph, data = prepare(network[0]), network[1]
    found = calibrate(graph, data, SMOOTH, precision="fp16")
    assert (found.half_precision, dict(found.smoothing), dict(found.channels)) == (True, {}, {})
    assert {"x", "c1", "r1", "c2", "r2", "c3", "f", "m", "r4", "y"} <= found.statistics.tensors.keys()
    assert smoothed(graph, found) == (graph, ())


def test_a_graph_with_nothing_to_smooth(network: tuple[ir.Model, Batches]) -> None:
    graph, data = prepare(network[0]), network[1]
    found = calibrate(graph, data, QuantConfig(smooth={"gain": 0.5}, equalize=0.0), precision="int8")
    assert (dict(found.smoothing), dict(found.channels)) == ({}, {})
    assert smoothed(graph, found) == (graph, ())


def test_progress_counts_rows_of_each_phase(network: tuple[ir.Model, Batches]) -> None:
    graph, data = prepare(network[0]), network[1]
    told: list[tuple[str, int, int]] = []
    calibrate(graph, data, SMOOTH, precision="int8", progress=lambda *step: told.append(step))
    rows = [8, 16, 24, 32, 40, 48]
    assert told == [*(("channels", seen, 32) for seen in rows[:4]), *(("ranges", seen, 48) for seen in rows)]
    told.clear()
    calibrate(graph, data, SMOOTH, precision="fp16", progress=lambda *step: told.append(step))
    assert told == [("ranges", seen, 48) for seen in rows]


def test_a_calibration_serves_precisions_of_its_kind(network: tuple[ir.Model, Batches]) -> None:
    graph, data = prepare(network[0]), network[1]
    kinds: tuple[tuple[SitePrecision, set[str]], ...] = (("int8", {"int8", "fp8"}), ("bf16", {"fp16", "bf16"}))
    for precision, kind in kinds:
        found = calibrate(graph, data, SMOOTH, precision=precision)
        for other in PRECISIONS:
            if other in kind:
                check_kind(found, other)
                continue
            with pytest.raises(CalibrationError, match=f"was not made for {other}"):
                check_kind(found, other)
    assert {"int8", "fp8", "fp16", "bf16"} == set(CALIBRATED)


def test_memory_does_not_grow_with_the_samples() -> None:
    graph = prepare(small_network()[0])

    class Stream:
        def __init__(self, count: int) -> None:
            self.samples = self.rows = count * 32

        def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
            rng = np.random.default_rng(0)
            for _ in range(self.samples // 32):
                yield {"x": rng.standard_normal((32, 2, 4, 4)).astype(np.float32)}

    def peak(count: int) -> int:
        tracemalloc.start()
        calibrate(graph, Stream(count), SMOOTH, precision="int8")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(100)  # imports and caches
    assert peak(100) < 1.1 * peak(10)
