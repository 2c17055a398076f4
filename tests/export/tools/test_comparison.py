"""Two bundles side by side: known differences are measured as what they are."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from aigc_export.line.exporter import PLAN_FILE, ExportResult, export_model
from aigc_export.tools.comparison import Picture, check_comparable, compare_bundles, picture_grid
from aigc_runtime.bundle.bundle import Bundle, write_bundle
from aigc_runtime.bundle.manifest import Manifest, PipelineInfo, Reference
from aigc_runtime.errors import ConfigError, EngineError, InputError
from aigc_runtime.opening import open_pipeline
from aigc_runtime.pipelines.gan import GanPipeline
from aigc_runtime.pipelines.settings import TextSettings

from ..conftest import TINY, recipe_of

pytestmark = pytest.mark.usefixtures("capture_once")

QUICK: dict[str, Any] = {"quality_samples": 0, "threads": 1, "rounds": 1, "runs": 1}


def changed(bundle: Bundle, folder: Path, operator: str, number: float) -> Bundle:
    """The same bundle with one more node at the end of its engine: `operator(output, number)`."""
    model = onnx.load_model_from_string(bundle.read("model.onnx"))
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
        node.input[:] = ["before" if name == output else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), "number"))
    model.graph.node.append(helper.make_node(operator, ["before", "number"], [output], "change"))
    files: dict[str, bytes | Path] = {info.path: bundle.read(info.path) for info in bundle.manifest.files}
    files["model.onnx"] = model.SerializeToString()
    write_bundle(folder, replace(bundle.manifest, files=()), files)
    return Bundle.open(folder)


@pytest.mark.parametrize("name", list(TINY))
def test_a_bundle_beside_itself(name: str, results: dict[str, ExportResult]) -> None:
    bundle = results[name].bundle
    found = compare_bundles(bundle, bundle, quality_samples=2, threads=1, rounds=3, runs=5)
    assert found.name == name
    assert found.first == found.second
    assert {t.case for t in found.tensors} == {c.name for c in bundle.manifest.reference.cases}
    assert all((t.errors.max_abs, t.errors.sqnr_db, t.errors.problem) == (0.0, 400.0, "") for t in found.tensors)
    exact = {"token_agreement": 1.0, "psnr_db": 400.0}
    assert found.picture.value == exact[found.picture.metric]
    values = {m.name: m.value for m in found.scores.paired}
    expected = {"ppl_increase": 0.0, "kl_divergence": 0.0, "top1_agreement": 1.0}
    expected |= {"psnr_db": 400.0, "step_sqnr_db": 400.0}
    assert values == {key: expected[key] for key in values}
    assert all(q.reference == q.bundle for q in found.scores.quality)
    assert 0.2 < found.timing.speedup < 5


def test_an_image_that_is_off_by_a_known_step(results: dict[str, ExportResult], tmp_path: Path) -> None:
    bundle = results["gan"].bundle
    other = changed(bundle, tmp_path / "other", "Add", 0.02)
    found = compare_bundles(bundle, other, **{**QUICK, "quality_samples": 5})
    assert found.picture.metric == "psnr_db"
    assert found.picture.value == pytest.approx(20 * math.log10(np.ptp(found.picture.first) / 0.02), abs=1e-2)
    pipeline = open_pipeline(bundle, threads=1)
    assert isinstance(pipeline, GanPipeline)
    drawn = pipeline.generate([0, 1, 2, 3, 4], seed=1)
    psnr = 20 * math.log10(np.ptp(drawn) / 0.02)
    assert {m.name: m.value for m in found.scores.paired} == {"psnr_db": pytest.approx(psnr, abs=1e-2)}
    for gap in found.tensors:
        assert gap.errors.max_abs == pytest.approx(0.02, abs=1e-6)
        assert gap.errors.mean_abs == pytest.approx(0.02, abs=1e-6)
    grid, amplification = picture_grid(found.picture)
    assert amplification == 32  # 32 * 0.02 is below 1, 64 * 0.02 is not
    n, _, h, w = found.picture.first.shape
    scale = 96 // w
    assert grid.shape == (scale * (3 * (h + 2) + 2), scale * (n * (w + 2) + 2))
    below = grid[scale * (2 * (h + 2) + 2) : -2 * scale, 2 * scale : scale * (w + 2)]
    assert set(np.unique(below)) <= {208, 209, 210}  # (0.64 + 1) * 127.5


def test_logits_that_are_a_tenth_larger(results: dict[str, ExportResult], tmp_path: Path) -> None:
    bundle = results["lm"].bundle
    other = changed(bundle, tmp_path / "other", "Mul", 1.1)
    found = compare_bundles(bundle, other, **{**QUICK, "quality_samples": 4})
    for gap in found.tensors:
        assert gap.errors.sqnr_db == pytest.approx(20.0, abs=1e-3)  # the error is a tenth of the signal
    assert (found.picture.metric, found.picture.value) == ("token_agreement", 1.0)  # a factor changes no order
    values = {m.name: m.value for m in found.scores.paired}
    assert values["top1_agreement"] == 1.0
    assert values["ppl_increase"] != 0.0
    quality = found.scores.quality[1]
    assert quality.metric == "bits_per_byte"
    ratio = 2 ** (quality.bundle - quality.reference)
    assert values["ppl_increase"] == pytest.approx(ratio - 1, abs=1e-4)


def test_an_engine_that_gives_nan(results: dict[str, ExportResult], tmp_path: Path) -> None:
    bundle = results["lm"].bundle
    other = changed(bundle, tmp_path / "other", "Mul", float("nan"))
    with pytest.raises(EngineError, match="NaN"):
        compare_bundles(bundle, other, **QUICK)


def test_size_and_plan(results: dict[str, ExportResult], checkpoints: Path, tmp_path: Path) -> None:
    bundle = results["gan"].bundle
    recipe = recipe_of("gan", checkpoints / "gan", precision="int8-weight", calibration_samples=16)
    small = export_model(recipe, tmp_path / "small").bundle
    found = compare_bundles(bundle, small, **QUICK)
    assert (found.first.precision, found.second.precision) == ("fp32", "int8-weight")
    assert (found.first.plan, found.second.plan["int8-weight"] > 0) == ({}, True)
    assert PLAN_FILE in {f.path for f in small.manifest.files}
    for facts, of in ((found.first, bundle), (found.second, small)):
        assert facts.size_bytes == of.size_bytes
        assert facts.engine_bytes == len(of.read("model.onnx"))
    assert found.first.checkpoint_sha256 == found.second.checkpoint_sha256 != ""
    assert all(0 < t.errors.max_abs < 0.2 for t in found.tensors)
    backwards = compare_bundles(small, bundle, **QUICK)
    assert backwards.first == found.second


def with_interface(manifest: Manifest, **changes: Any) -> Manifest:
    engine = manifest.engine
    return replace(manifest, engines={"model": replace(engine, interface=replace(engine.interface, **changes))})


def with_step(reference: Reference, engine: str) -> Reference:
    """The reference with its first step once more, by another engine."""
    case = reference.cases[0]
    again = replace(case, name="again", steps=(replace(case.steps[0], engine=engine),))
    return replace(reference, cases=(*reference.cases, again))


def test_what_cannot_be_compared(results: dict[str, ExportResult]) -> None:
    lm, unet = results["lm"].bundle.manifest, results["unet"].bundle.manifest
    check_comparable(lm, replace(lm, precision="int8", tolerances=unet.tolerances))  # these may differ
    halved = replace(lm, state={"carried": tuple(replace(s, dtype="float16") for s in lm.interface.state)})
    assert isinstance(lm.pipeline.settings, TextSettings)
    small = replace(lm, pipeline=PipelineInfo.of(replace(lm.pipeline.settings, context_length=7)))
    given = lm.engine.interface.inputs
    inputs = with_interface(lm, inputs=(replace(given[0], high=7), *given[1:]))
    dims = with_interface(lm, dims=tuple(replace(d, max=7) for d in lm.interface.dims))
    two = replace(lm, engines={"model": lm.engine, "decode": lm.engine}, reference=with_step(lm.reference, "decode"))
    for other, message in (
        (unet, "'name': lm and unet"),
        (replace(lm, name="other"), "'name': lm and other"),
        (halved, "'state': .*float32.* and .*float16"),
        (replace(unet, name="lm"), "'kind': text and diffusion"),
        (small, "'pipeline': .*context_length=96.* and .*context_length=7"),
        (inputs, "'inputs': .*high=256.* and .*high=7"),
        (dims, "'dims': .* and .*max=7"),
        (two, r"'engines': \['model'\] and \['model', 'decode'\]"),
    ):
        with pytest.raises(InputError, match=f"differ in {message}") as caught:
            check_comparable(lm, other)
        assert "two exports of one model" in caught.value.hint


def test_samples_are_checked_before_any_work(results: dict[str, ExportResult], monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = results["gan"].bundle
    monkeypatch.setattr(
        "aigc_export.tools.comparison.open_program", lambda *_, **__: pytest.fail("the work has started")
    )
    for bad in (1, -1):
        with pytest.raises(ConfigError, match=f"quality_samples is {bad}"):
            compare_bundles(bundle, bundle, quality_samples=bad)


def test_a_picture_of_no_difference_and_of_a_large_one() -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32)
    same = Picture(metric="psnr_db", value=400.0, first=images, second=images)
    grid, amplification = picture_grid(same)
    assert amplification == 1
    assert set(np.unique(grid[-20:-2, 4:20])) <= {128, 255}  # gray, and the white frame
    grid, amplification = picture_grid(replace(same, second=-images))
    assert amplification == 1
    tiny = replace(same, second=images + np.float32(1e-7))
    assert picture_grid(tiny)[1] == 2**16
    with pytest.raises(ConfigError, match="make no images"):
        picture_grid(Picture(metric="token_agreement", value=1.0, first=np.arange(3), second=np.arange(3)))
