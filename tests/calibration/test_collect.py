"""What is watched is what the graph computes, batch by batch."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from importlib import import_module

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.collect import collect
from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_function import OnnxFunction, open_onnx
from aigc_runtime.core.tensors import Array

from .conftest import Batches, make_graph, small_network

collect_module = import_module("aigc_calibration.collect")


def test_ranges_and_channels_are_numpys(network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    found = collect(model, data, ["x", "c1", "r4"], channels={"c1": 1})
    run = open_onnx(model, expose=["c1", "r4"])
    c1 = np.concatenate([run(f)["c1"] for f in data.feeds])
    seen = found.tensors["c1"]
    assert (seen.histogram.low, seen.histogram.high) == (c1.min(), c1.max())
    assert seen.histogram.count == c1.size
    np.testing.assert_array_equal(seen.channel_amax, np.abs(c1).max(axis=(0, 2, 3)))
    assert [h.high for h in seen.splits] == [c1[i::2].max() for i in (0, 1)]
    assert [h.count for h in seen.splits] == [c1.size // 2] * 2
    assert found.tensors["r4"].histogram.zeros > 0
    assert found.tensors["x"].channel_amax is None
    assert (found.samples, found.batches) == (48, 6)


def test_of_large_values_a_part_is_counted_and_the_extremes_are_of_all(
    network: tuple[ir.Model, Batches], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = network
    names = ["x", "c1", "r4"]
    whole = collect(model, data, names)
    monkeypatch.setattr(collect_module, "MOST_COUNTED", 16)
    part = collect(model, data, names)
    for name in names:
        one, other = whole.tensors[name].histogram, part.tensors[name].histogram
        assert (one.low, one.high) == (other.low, other.high)
        assert 0 < other.count < one.count / 6


def test_the_digest_is_of_every_number(network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    changed = Batches((*data.feeds[:-1], {"x": data.feeds[-1]["x"] + np.float32(1e-6)}))
    digests = [collect(model, d, ["c1"]).samples_sha256 for d in (data, data, changed)]
    assert digests[0] == digests[1] != digests[2]


def test_halves_are_of_samples_whatever_the_batches() -> None:
    model = make_graph([helper.make_node("Neg", ["x"], ["y"])], {}, {"x": ["n", 3]}, {"y": ["n", 3]})
    x = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    for sizes in ((9,), (4, 5), (1,) * 9, (3, 3, 3)):
        parts = np.split(x, np.cumsum(sizes)[:-1])
        seen = collect(model, Batches(tuple({"x": part} for part in parts)), ["y"]).tensors["y"]
        assert [(h.low, h.high, h.count) for h in seen.splits] == [
            (-x[i::2].max(), -x[i::2].min(), x[i::2].size) for i in (0, 1)
        ]


def test_a_sample_of_several_steps_is_in_one_half() -> None:
    model = make_graph([helper.make_node("Neg", ["x"], ["y"])], {}, {"x": ["n", 1]}, {"y": ["n", 1]})

    class Stepped(Batches):
        samples, rows = 3, 9  # two and one, three steps each

    data = Stepped(tuple({"x": np.array(v, np.float32)} for v in ([[1], [2]],) * 3 + ([[4]],) * 3))
    seen = collect(model, data, ["y"]).tensors["y"]
    assert [(h.low, h.high, h.count) for h in seen.splits] == [(-4, -1, 6), (-2, -2, 3)]


def test_a_value_without_samples_is_in_both_halves() -> None:
    nodes = [helper.make_node("Neg", ["c"], ["k"]), helper.make_node("Mul", ["x", "k"], ["y"])]
    model = make_graph(nodes, {"c": np.ones((3, 1), np.float32)}, {"x": [2, 1, 1]}, {"y": [2, 3, 1]})
    seen = collect(model, Batches(({"x": np.ones((2, 1, 1), np.float32)},)), ["k"]).tensors["k"]
    assert [h.count for h in seen.splits] == [3, 3]


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
            self.samples = self.rows = count * 32

        def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
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
