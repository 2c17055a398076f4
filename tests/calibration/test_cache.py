"""A calibration comes back from its file as it was, or not at all."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from aigc_calibration.cache import CACHE_VERSION, read_calibration, write_calibration
from aigc_calibration.calibrate import Calibration, calibrate
from aigc_calibration.calibrated_plan import with_choice
from aigc_calibration.config import QuantConfig
from aigc_calibration.errors import CalibrationError
from aigc_calibration.plan import SitePrecision
from aigc_calibration.prepare import copy_graph, prepare
from aigc_calibration.quantize import quantize
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import OutputError

from .conftest import Batches, small_network

CONFIG = QuantConfig(smooth={"layer": 0.5})


def made(precision: SitePrecision = "int8", batches: int = 6, config: QuantConfig = CONFIG) -> Calibration:
    model, data = small_network()
    return calibrate(prepare(model), Batches(data.feeds[:batches]), config, precision=precision)


def fitted(calibration: Calibration) -> Calibration:
    """The calibration with what `quantize` chose by it."""
    model, data = small_network()
    found = quantize(model, data, CONFIG, precision="int8", calibration=calibration)
    return with_choice(calibration, found.plan, found.weights)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return replace(fitted(made()), methods={}, choice="")  # of values that a damaged file does not hold


def assert_same(a: Calibration, b: Calibration) -> None:
    assert (a.graph_sha256, dict(a.smoothing), a.equalization, a.half_precision) == (
        b.graph_sha256,
        dict(b.smoothing),
        b.equalization,
        b.half_precision,
    )
    assert (dict(a.methods), a.choice) == (dict(b.methods), b.choice)
    assert (a.float_sites, a.float_choice) == (b.float_sites, b.float_choice)
    assert list(a.codes) == list(b.codes)
    for name, weight in a.codes.items():
        again = b.codes[name]
        assert (weight.name, weight.axis, weight.grid) == (again.name, again.axis, again.grid)
        np.testing.assert_array_equal(weight.codes, again.codes, strict=True)
        np.testing.assert_array_equal(weight.scales, again.scales, strict=True)
    assert list(a.channels) == list(b.channels)
    for name in a.channels:
        np.testing.assert_array_equal(a.channels[name], b.channels[name], strict=True)
    x, y = a.statistics, b.statistics
    assert (x.samples, x.batches, x.samples_sha256) == (y.samples, y.batches, y.samples_sha256)
    assert x.tensors.keys() == y.tensors.keys()
    for name in x.tensors:
        for one, other in zip(x.tensors[name].splits, y.tensors[name].splits, strict=True):
            np.testing.assert_array_equal(one.counts, other.counts, strict=True)
            assert replace(one, counts=None) == replace(other, counts=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("precision", "batches"), [("int8", 6), ("fp16", 6), ("int8", 1)])
def test_a_round_trip_is_exact(precision: SitePrecision, batches: int, tmp_path: Path) -> None:
    before = made(precision, batches)  # of one batch, the second half holds nothing: its limits are infinite
    if precision == "int8":
        before = fitted(before)
        assert before.codes
    write_calibration(tmp_path / "c.npz", before)
    after = read_calibration(tmp_path / "c.npz")
    assert_same(before, after)
    write_calibration(tmp_path / "again.npz", after)
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "c.npz").read_bytes()
    with np.load(tmp_path / "c.npz", allow_pickle=False) as plain:
        assert plain["counts"].shape == (len(before.statistics.tensors), 2, 8192)


def test_the_comparison_of_this_test_can_fail(calibration: Calibration) -> None:
    other = replace(calibration, statistics=made(batches=5).statistics)
    with pytest.raises(AssertionError):
        assert_same(calibration, other)


@pytest.mark.parametrize("precision", ["int8", "fp8", "fp16"])
def test_the_plan_from_a_cache_is_that_of_a_fresh_calibration(precision: SitePrecision, tmp_path: Path) -> None:
    model, data = small_network()
    config = replace(CONFIG, equalize=0.0) if precision == "fp8" else CONFIG  # which integers alone are equalized for
    fresh = quantize(model, data, config, precision=precision)
    write_calibration(tmp_path / "c.npz", with_choice(made(precision, config=config), fresh.plan, fresh.weights))
    cached = read_calibration(tmp_path / "c.npz")
    assert bool(cached.methods) == bool(cached.choice) == (precision == "int8")
    # One batch is left to count work on: the ranges can only come from the cache.
    again = quantize(model, Batches(data.feeds[:1]), config, precision=precision, calibration=cached)
    assert again.plan.dump() == fresh.plan.dump()
    assert ir.to_proto(again.graph).SerializeToString() == ir.to_proto(fresh.graph).SerializeToString()
    assert again.statistics.samples_sha256 == fresh.statistics.samples_sha256
    other = quantize(model, Batches(data.feeds[:1]), CONFIG, precision=precision)
    assert (other.plan.dump() != fresh.plan.dump()) or precision == "fp16"  # whose plan holds no ranges


# What is refused


def unpack(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return json.loads(arrays.pop("header").tobytes()), arrays


def repack(path: Path, header: Any, arrays: dict[str, Any]) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    np.savez_compressed(path, header=np.frombuffer(text, dtype=np.uint8), **arrays)


def negative(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    counts = arrays["counts"]
    row = np.flatnonzero(counts[0, 0])[:2]
    counts[0, 0, row[0]] += counts[0, 0, row[1]] + 1
    counts[0, 0, row[1]] = -1


def wrapped_around(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Counts whose sum, in 64 bits, is what the header says."""
    arrays["counts"][0, 0, :4] += np.int64(2**62)


def one_count_more(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    arrays["counts"][0, 0, 0] += 1


def as_float(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    arrays["counts"] = arrays["counts"].astype(np.float32)


def fewer_bins(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    arrays["counts"] = arrays["counts"][..., :-1]


def fewer_tensors(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["tensors"].pop()


def one_half(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["tensors"][0]["splits"].pop()


def a_name_twice(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["tensors"][0]["name"] = header["tensors"][1]["name"]


def no_counts(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    del arrays["counts"]


def no_channels(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    del arrays["channels.0"]


def nan_channels(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    arrays["channels.0"][0] = np.nan


def negative_channels(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    arrays["channels.0"][0] = -1


def flat_channels(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    arrays["channels.0"] = arrays["channels.0"].reshape(1, -1)


def another_version(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["version"] = CACHE_VERSION + 1


def unknown_field(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["color"] = "red"


def no_digest(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    del header["graph_sha256"]


def odd_width(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["tensors"][0]["splits"][0]["width"] = 0.3


def upside_down(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["tensors"][0]["splits"][0].update(low=1.0, high=-1.0)


def no_low(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["tensors"][0]["splits"][0]["low"] = None


def more_zeros(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["tensors"][0]["splits"][0]["zeros"] = 10**9


def strong(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["smoothing"] = {"layer": 7.0}


def too_equal(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["equalization"] = 1.5


def unknown_source(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["smoothing"] = {"loft": 0.5}


def unknown_method(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["methods"] = {header["tensors"][0]["name"]: "best"}


def method_of_nothing(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["methods"] = {"nothing": "mse"}


def no_codes(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    del arrays["codes.0"]


def no_scales(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    del arrays["scales.0"]


def scales_of_others(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    arrays["scales.0"] = arrays["scales.0"][:-1]


def infinite_scales(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    arrays["scales.0"][0] = np.inf


def no_such_axis(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["weights"][0]["axis"] = 7


def least_code(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    arrays["codes.0"].flat[0] = -128


def wide_codes(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    arrays["codes.0"] = arrays["codes.0"].astype(np.int32)


def no_samples(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["samples"] = 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (negative, "its arrays are not those of its header"),
        (wrapped_around, "its arrays are not those of its header"),
        (one_count_more, "its arrays are not those of its header"),
        (as_float, "its arrays are not those of its header"),
        (fewer_bins, "its arrays are not those of its header"),
        (fewer_tensors, "its arrays are not those of its header"),
        (one_half, "its arrays are not those of its header"),
        (a_name_twice, "its arrays are not those of its header"),
        (no_counts, "is not a calibration cache"),
        (no_channels, "its arrays are not those of its header"),
        (nan_channels, "its arrays are not those of its header"),
        (negative_channels, "its arrays are not those of its header"),
        (flat_channels, "its arrays are not those of its header"),
        (no_codes, "its arrays are not those of its header"),
        (no_scales, "its arrays are not those of its header"),
        (scales_of_others, "its arrays are not those of its header"),
        (infinite_scales, "its arrays are not those of its header"),
        (no_such_axis, "its arrays are not those of its header"),
        (least_code, "its arrays are not those of its header"),
        (wide_codes, "its arrays are not those of its header"),
        (another_version, f"has version {CACHE_VERSION + 1}, this is for version {CACHE_VERSION}"),
        (unknown_field, "color is not a known field"),
        (no_digest, "graph_sha256 is missing"),
        (odd_width, "invalid histogram"),
        (upside_down, "invalid histogram"),
        (no_low, "invalid histogram"),
        (more_zeros, "invalid histogram"),
        (strong, "strengths lie between 0 and 1"),
        (too_equal, "equalization is 1.5"),
        (unknown_source, "smoothing is"),
        (no_samples, "there are 0 samples"),
        (unknown_method, "methods"),
        (method_of_nothing, "it names methods that there are not, or of values that it does not hold"),
    ],
)
def test_a_file_that_does_not_hold_together(
    change: Callable[[dict[str, Any], dict[str, Any]], None], message: str, calibration: Calibration, tmp_path: Path
) -> None:
    path = tmp_path / "c.npz"
    write_calibration(path, calibration)
    header, arrays = unpack(path)
    repack(path, header, arrays)
    assert_same(calibration, read_calibration(path))  # repacking alone breaks nothing
    change(header, arrays)
    repack(path, header, arrays)
    with pytest.raises(CalibrationError, match=r"(?s)the calibration cache|histogram") as caught:
        read_calibration(path)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"version": NaN}', b'"x"', b"\xff"])
def test_a_header_that_is_none(text: bytes, calibration: Calibration, tmp_path: Path) -> None:
    write_calibration(tmp_path / "c.npz", calibration)
    _, arrays = unpack(tmp_path / "c.npz")
    repack(tmp_path / "c.npz", text, arrays)
    with pytest.raises(CalibrationError, match=r"is not valid|has version None"):
        read_calibration(tmp_path / "c.npz")


@pytest.mark.slow
def test_flipped_bits_never_change_a_calibration(calibration: Calibration, tmp_path: Path) -> None:
    write_calibration(tmp_path / "c.npz", calibration)
    raw, path = (tmp_path / "c.npz").read_bytes(), tmp_path / "flipped.npz"
    refused = 0
    rng = np.random.default_rng(0)
    # The ends hold the names and the directory of the archive; the middle is packed numbers.
    places = {*range(64), *range(len(raw) - 400, len(raw)), *rng.integers(0, len(raw), 400).tolist()}
    for place in sorted(places):
        damaged = bytearray(raw)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert_same(calibration, read_calibration(path))  # dates and the like say nothing
        except CalibrationError:
            refused += 1
    assert refused > 0.7 * len(places)


def test_a_cut_file(calibration: Calibration, tmp_path: Path) -> None:
    write_calibration(tmp_path / "c.npz", calibration)
    raw = (tmp_path / "c.npz").read_bytes()
    for length in (0, 1, 22, len(raw) // 3, len(raw) - 1):
        (tmp_path / "cut.npz").write_bytes(raw[:length])
        with pytest.raises(CalibrationError, match="is damaged"):
            read_calibration(tmp_path / "cut.npz")


def test_files_that_are_something_else(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "arrays.npz", latents=np.zeros(3, np.float32))
    np.savez(tmp_path / "objects.npz", header=np.array([{"a": 1}], dtype=object), counts=np.zeros(1))
    (tmp_path / "text").write_text("hello")
    for name, message in (
        ("array.npy", "or not a calibration cache"),
        ("arrays.npz", "is not a calibration cache"),
        ("objects.npz", "element type object"),
        ("text", "or not a calibration cache"),
        ("nowhere.npz", "no such file"),
        ("", "is a folder"),
    ):
        with pytest.raises(CalibrationError) as caught:
            read_calibration(tmp_path / name)
        assert message in str(caught.value)
        assert "aigc-export calibrate" in caught.value.hint


def test_a_file_that_would_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigc_calibration.cache.MAX_CACHE_BYTES", 2**20)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("counts.npy", bytes(2**22))
    with pytest.raises(CalibrationError, match="would unpack to more than 1,048,576 bytes"):
        read_calibration(tmp_path / "bomb.npz")


def test_another_graph_or_kind_of_precision(calibration: Calibration) -> None:
    model, data = small_network()
    other, _ = small_network(seed=1)
    with pytest.raises(CalibrationError, match="belongs to another graph"):
        quantize(other, data, CONFIG, precision="int8", calibration=calibration)
    wider = copy_graph(model)
    next(n for n in wider.graph if n.name == "relu1").op_type = "Sigmoid"
    with pytest.raises(CalibrationError, match="belongs to another graph"):
        quantize(wider, data, CONFIG, precision="int8", calibration=calibration)
    for precision in ("fp16", "bf16", "int8-weight", "int4-weight"):
        with pytest.raises(CalibrationError, match=f"was not made for {precision}"):
            quantize(model, data, CONFIG, precision=precision, calibration=calibration)
    with pytest.raises(CalibrationError, match="was not made for fp8"):
        quantize(model, data, CONFIG, precision="fp8", calibration=made("fp16"))


def test_values_that_are_missing(calibration: Calibration) -> None:
    model, data = small_network()
    tensors = {n: t for n, t in calibration.statistics.tensors.items() if n != "c3"}
    lacking = replace(calibration, statistics=replace(calibration.statistics, tensors=tensors))
    with pytest.raises(CalibrationError, match="incomplete: it has no statistics of 'c3'"):
        quantize(model, data, CONFIG, precision="int8", calibration=lacking)
    for channels in ({}, {**calibration.channels, "r1": np.ones(5, np.float32)}):
        with pytest.raises(CalibrationError, match="incomplete: its channels are not those of the graph"):
            quantize(model, data, CONFIG, precision="int8", calibration=replace(calibration, channels=channels))


def test_a_place_that_cannot_be_written(calibration: Calibration, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        write_calibration(tmp_path / "file" / "c.npz", calibration)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
