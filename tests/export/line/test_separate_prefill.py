"""A language model as two engines over one state and one file of weights says what it says in PyTorch."""

from __future__ import annotations

from pathlib import Path

import pytest

import aigc_export
from aigc_models.torch_session import open_torch
from aigc_runtime import open_pipeline, verify_bundle
from aigc_runtime.opening import open_program
from aigc_runtime.pipelines import make_pipeline

pytestmark = pytest.mark.usefixtures("capture_once")


@pytest.mark.parametrize("cache", ["growing", pytest.param("buffer", marks=pytest.mark.slow)])
def test_two_engines_write_what_pytorch_writes_as_one(cache: str, checkpoints: Path, tmp_path: Path) -> None:
    checkpoint = str(checkpoints / "lm")
    result = aigc_export.export(
        "lm",
        output=tmp_path / "out",
        checkpoint=checkpoint,
        spec_options={"cache": cache, "separate_prefill": True},
        quality_samples=2,
        threads=1,
    )
    assert result.report.passed
    with open_program(result.bundle) as opened:
        assert verify_bundle(result.bundle, opened).passed
    one = aigc_export.load("lm", checkpoint=checkpoint, cache=cache)
    assert list(one.parts) == ["model"]
    texts = []
    with open_pipeline(result.bundle, threads=1) as engines, make_pipeline(open_torch(one), one.settings) as pytorch:
        for pipeline in (engines, pytorch):
            texts.append([row.token_ids.tolist() for row in pipeline.generate(["def ", "import os"], max_new_tokens=6)])
    assert texts[0] == texts[1]
    manifest = result.bundle.manifest
    assert list(manifest.engines) == ["prefill", "decode"]
    assert manifest.shared_files == ("shared.weights",)
    assert list(manifest.state) == ["cache"]
    assert manifest.interfaces["prefill"] == manifest.interfaces["decode"]
    sizes = {info.path: info.size for info in manifest.files}
    assert sizes["prefill.onnx"] < 200_000
    found = aigc_export.verify(result.bundle, quality_samples=2)
    assert found.report.passed, found.report.failures


@pytest.mark.slow
def test_two_engines_in_eight_bits(checkpoints: Path, tmp_path: Path) -> None:
    result = aigc_export.export(
        "lm",
        output=tmp_path / "out",
        checkpoint=str(checkpoints / "lm"),
        precision="int8",
        spec_options={"separate_prefill": True},
        calibration_samples=16,
        quality_samples=2,
        tolerance={"min_sqnr_db": 10, "min_token_agreement": 0.01, "max_quality_drop": 1.0},
        threads=1,
    )
    assert {name: one.executed for name, one in result.coverages.items()} == pytest.approx(
        {name: one.planned for name, one in result.coverages.items()}
    )
    assert min(one.planned for one in result.coverages.values()) > 0.5
    manifest = result.bundle.manifest
    assert {"plan.prefill.json", "plan.decode.json"} <= {info.path for info in manifest.files}
    with open_program(result.bundle) as opened:
        assert verify_bundle(result.bundle, opened).passed
