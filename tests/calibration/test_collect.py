"""What is watched is what the graph computes, batch by batch."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.collect import collect
from aigc_calibration.errors import CalibrationError
from aigc_calibration.floatgraph import open_graph
from aigc_runtime.tensors import Array

from .conftest import Batches, make_graph, small_network


def test_ranges_and_channels_are_numpys(network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    found = collect(model, data, ["x", "c1", "r4"], channels=["c1"], channel_axis=1)
    run = open_graph(model, expose=["c1", "r4"])
    c1 = np.concatenate([run(f)["c1"] for f in data.feeds])
    seen = found.tensors["c1"]
    assert (seen.histogram.low, seen.histogram.high) == (c1.min(), c1.max())
    assert seen.histogram.count == c1.size
    np.testing.assert_array_equal(seen.channel_amax, np.abs(c1).max(axis=(0, 2, 3)))
    np.testing.assert_allclose(seen.channel_mean, np.abs(c1).mean(axis=(0, 2, 3), dtype=np.float64), rtol=1e-6)
    halves = [np.concatenate([run(f)["c1"] for f in data.feeds[i::2]]) for i in (0, 1)]
    assert [h.high for h in seen.halves] == [h.max() for h in halves]
    assert found.tensors["r4"].histogram.zeros > 0
    assert found.tensors["x"].channel_amax is None
    assert (found.samples, found.batches) == (48, 6)


def test_the_digest_is_of_every_number(network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    changed = Batches((*data.feeds[:-1], {"x": data.feeds[-1]["x"] + np.float32(1e-6)}))
    digests = [collect(model, d, ["c1"]).samples_sha256 for d in (data, data, changed)]
    assert digests[0] == digests[1] != digests[2]


def test_nan_in_the_graph_is_named() -> None:
    model = make_graph(
        [helper.make_node("Log", ["x"], ["l"]), helper.make_node("Neg", ["l"], ["y"])], {}, {"x": [2]}, {"y": [2]}
    )
    with pytest.raises(CalibrationError, match=r"value 'l' of the graph is NaN in batch 1"):
        collect(model, Batches(({"x": np.ones(2, np.float32)}, {"x": np.array([-1.0, 1.0], np.float32)})), ["l"])


def test_no_samples_are_refused(network: tuple[ir.Model, Batches]) -> None:
    with pytest.raises(CalibrationError, match="no calibration samples"):
        collect(network[0], Batches(()), ["c1"])


def test_memory_does_not_grow_with_the_samples() -> None:
    model, _ = small_network()

    class Stream:
        def __init__(self, count: int) -> None:
            self.samples = count * 32

        def batches(self, graph: ir.Model, *, threads: int | None = None) -> Iterator[dict[str, Array]]:
            rng = np.random.default_rng(0)
            for _ in range(self.samples // 32):
                yield {"x": rng.standard_normal((32, 2, 4, 4)).astype(np.float32)}

    def peak(count: int) -> int:
        tracemalloc.start()
        collect(model, Stream(count), ["x", "c1", "c2", "m"])
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)  # imports and caches
    assert peak(200) < 1.1 * peak(10)
