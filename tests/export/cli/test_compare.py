"""`aigc-export compare`: the table, the document, the picture, and what is refused."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from aigc_export.cli import run
from aigc_export.line.exporter import ExportResult, export_model
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.proof.bench import Latency

from ..conftest import TINY, recipe_of

pytestmark = pytest.mark.usefixtures("capture_once")
Capture = pytest.CaptureFixture[str]
QUICK = ["--quality-samples", "0", "--rounds", "1", "--runs", "1", "--threads", "1"]


@pytest.fixture
def coarse(checkpoints: Path, tmp_path: Path) -> str:
    """The generator again, its weights in 8 bits."""
    recipe = recipe_of("gan", checkpoints / "gan", precision="int8-weight", calibration_samples=16)
    return str(export_model(recipe, tmp_path / "coarse").bundle.path)


@pytest.fixture
def small(checkpoints: Path, tmp_path: Path) -> str:
    """The generator again, its weights in 16 bits: of so few, scales of blocks would take what 8 bits save."""
    recipe = recipe_of("gan", checkpoints / "gan", precision="fp16", calibration_samples=16)
    return str(export_model(recipe, tmp_path / "small").bundle.path)


def gray_pixels(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """An 8-bit gray PNG without filters, read independently of what wrote it."""
    raw = path.read_bytes()
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", raw[16:24])
    start = raw.index(b"IDAT") + 4
    length = struct.unpack(">I", raw[start - 8 : start - 4])[0]
    rows = np.frombuffer(zlib.decompress(raw[start : start + length]), np.uint8).reshape(height, width + 1)
    return rows[:, 1:]


def test_two_precisions_side_by_side(
    results: dict[str, ExportResult], coarse: str, tmp_path: Path, capsys: Capture
) -> None:
    first, image = str(results["gan"].bundle.path), tmp_path / "both.png"
    assert run(["compare", first, coarse, *QUICK, "--image", str(image)]) == 0
    printed = capsys.readouterr()
    for text in (
        "A, fp32",
        "B, int8-weight",
        "tensor image, batch1",
        "tensor image, batch4",
        "psnr_db",
        "size of the bundle",
        "size of the engine",
        "one step, 1 threads",
        "x as fast",
        "operators by plan",
        "int8-weight",
        "and their difference times ",
    ):
        assert text in printed.out
    assert "different weights" not in printed.out
    assert printed.err == ""
    pixels = gray_pixels(image)
    size = results["gan"].bundle.manifest.pipeline.settings.sample_shape[1]
    scale = 96 // size
    assert pixels.shape[0] == scale * (3 * (size + 2) + 2)
    rows = [pixels[scale * (2 + i * (size + 2)) : scale * (i + 1) * (size + 2)] for i in range(3)]
    near = np.abs(rows[0].astype(int) - rows[1]).max()
    assert 0 < near < 20  # A over B
    assert np.abs(rows[2].astype(int) - 128).max() > near  # over their difference, amplified


@pytest.mark.parametrize("name", list(TINY))
def test_json_is_one_document(name: str, results: dict[str, ExportResult], capsys: Capture) -> None:
    path = str(results[name].bundle.path)
    assert run(["compare", path, path, "--rounds", "1", "--runs", "1", "--quality-samples", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == name
    assert told["a"] == told["b"]
    assert told["a"]["size_bytes"] == results[name].bundle.size_bytes
    assert {t["errors"]["sqnr_db"] for t in told["tensors"]} == {400.0}
    assert told["picture"]["value"] == (1.0 if name == "lm" else 400.0)
    assert {m["name"] for m in told["paired"]} >= {"ppl_increase" if name == "lm" else "psnr_db"}
    assert all(q["a"] == q["b"] for q in told["quality"])
    assert told["speed"]["a_ms"] > 0
    assert told["speed"]["speedup"] == pytest.approx(told["speed"]["a_ms"] / told["speed"]["b_ms"])
    assert (told["image"], told["amplification"]) == (None, None)


def test_other_weights_are_told_of(results: dict[str, ExportResult], tmp_path: Path, capsys: Capture) -> None:
    from ..conftest import write_checkpoint

    other = write_checkpoint(tmp_path / "checkpoint", "gan", seed=1)
    bundle = export_model(recipe_of("gan", other), tmp_path / "out").bundle
    assert run(["compare", str(results["gan"].bundle.path), str(bundle.path), *QUICK]) == 0
    assert "warning the two were made from different weights" in capsys.readouterr().out


def test_bad_requests(results: dict[str, ExportResult], tmp_path: Path, capsys: Capture) -> None:
    lm, unet, gan = (str(results[name].bundle.path) for name in ("lm", "unet", "gan"))
    image = ["--image", str(tmp_path / "x.png")]
    for arguments, code, message, hint in (
        ([lm, unet, *image], 2, "the two bundles differ in 'name': lm and unet", "two exports of one model"),
        ([lm, lm, *image], 2, "these bundles make no images", "leave --image out"),
        ([gan, gan, "--quality-samples", "1"], 2, "quality_samples is 1", "0 leaves quality out"),
        ([gan, gan, "--quality-samples", "-3"], 2, "quality_samples is -3", "at least 2"),
        ([gan, gan, "--rounds", "0"], 2, "--rounds", "1<=x"),
        ([gan], 2, "two bundles are compared, A and B: 1 given", "--baseline"),
        ([gan, gan, "--baseline", gan], 2, "two bundles are compared, A and B: 3 given", "--baseline"),
        ([gan, gan, "--max-size-increase", "0.05"], 2, "'0.05' is no number of bytes", "did you mean 5%?"),
        ([gan, gan, "--max-latency", "5%"], 2, "'5%' is no limit of a latency", "a number of milliseconds"),
        ([gan, gan, "--max-size", "-3"], 2, "'-3' is no limit of a size", "units: B, kB"),
        ([gan, str(tmp_path / "nothing")], 4, "is not a folder", "export -o"),
        ([str(tmp_path), gan], 4, "manifest.json", ""),
        ([gan, gan, *QUICK, "--image", str(tmp_path / "file" / "x.png")], 6, "file", ""),
    ):
        (tmp_path / "file").write_text("mine")
        assert run(["compare", *arguments]) == code, arguments
        printed = capsys.readouterr()
        assert message in printed.err
        assert hint in printed.err
        assert "Traceback" not in printed.err
        assert printed.out == ""
        assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_damaged_bundle(copies: Path, capsys: Capture) -> None:
    path = copies / "gan" / "model.onnx"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    assert run(["compare", str(copies / "gan"), str(copies / "gan")]) == 4
    assert "'model.onnx' has SHA-256" in capsys.readouterr().err


def test_samples_that_no_picture_holds_are_refused_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    settings = SimpleNamespace(sample_shape=(4, 8, 8))
    latents = SimpleNamespace(pipeline=SimpleNamespace(kind="diffusion", settings=settings))
    monkeypatch.setattr("aigc_runtime.bundle.bundle.Bundle.open", lambda _path: SimpleNamespace(manifest=latents))
    monkeypatch.setattr("aigc_export.tools.comparison.check_comparable", lambda *_: None)
    monkeypatch.setattr("aigc_export.tools.comparison.compare_bundles", None)  # must not be called
    assert run(["compare", "a", "b", "--image", "both.png"]) == 2
    assert "a PNG holds 1 or 3 channels, these samples have 4" in capsys.readouterr().err


def test_a_baseline_is_a_gate(
    results: dict[str, ExportResult], small: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 3 where B costs more than allowed; both sizes are those of the files."""
    large = str(results["gan"].bundle.path)
    sizes = [sum(f.size for f in Bundle.open(path).manifest.files) for path in (small, large)]
    grown = sizes[1] / sizes[0] - 1
    assert grown > 0
    within, beyond = f"{100 * grown + 1:.3f}%", f"{100 * grown - 1:.3f}%"
    for limit, code in (
        (["--max-size-increase", within], 0),
        (["--max-size-increase", beyond], 3),
        (["--max-size-increase", str(sizes[1] - sizes[0])], 0),
        (["--max-size-increase", str(sizes[1] - sizes[0] - 1)], 3),
        (["--max-size", f"{sizes[1] / 1e3:.3f}kB"], 0),
        (["--max-size", str(sizes[1] - 1)], 3),
    ):
        assert run(["compare", large, "--baseline", small, *QUICK, *limit]) == code, limit
        assert ("FAIL" if code else "pass") in capsys.readouterr().out
    assert run(["compare", small, large, *QUICK, "--max-size-increase", beyond, "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    (check,) = told["checks"]
    assert (told["passed"], check["passed"], check["unit"], check["low"]) == (False, False, "share", check["high"])
    assert check["measured"] == pytest.approx(grown)

    slow = iter(range(10**6))

    def timed(*_: object, **__: object) -> Latency:
        # Rounds alternate A B, B A: every second pair of calls is the other way round.
        number = next(slow)
        second = number % 4 in (1, 2)
        return Latency(median_ms=(2.5 if second else 2.0) + 0.01 * (number % 3), p10_ms=0, p90_ms=0, runs=1)

    monkeypatch.setattr("aigc_export.tools.timing.bench_step", timed)
    for latency, code in (("10%", 3), ("30%", 0), ("0.4ms", 3), ("0.6", 0)):
        assert run(["compare", small, small, *QUICK, "--max-latency-increase", latency, "--json"]) == code
        told = json.loads(capsys.readouterr().out)
        assert told["passed"] is (code == 0)
        assert len(told["speed"]["rounds_ms"]) == 9
