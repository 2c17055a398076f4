"""SmolLM2 as engines of TensorRT-RTX, built for three generations of GPUs on a machine that has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.real.conftest import Export

pytestmark = pytest.mark.real
pytest.importorskip("tensorrt_rtx")

CAPABILITIES = ["8.6", "8.9", "12.0"]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_one_engine_for_prompts_and_tokens_on_every_device(smollm2: Path, export: Export, precision: str) -> None:
    devices = [word for capability in CAPABILITIES for word in ("--compute-capability", capability)]
    options = ["--target", "tensorrt-rtx", *devices, "--calibration-samples", "32", "--quality-samples", "8"]
    bundle = export(smollm2, precision, *options)
    engine = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["engines"]["model"]
    build = engine["build"]
    assert build["compute_capabilities"] == CAPABILITIES
    assert [profile["name"] for profile in build["profiles"]] == ["prefill", "decode"]
    assert build["work_source"] == "engine"
    assert build["work"][precision] > 0.9
    assert engine["proof"]["parity"] == "graph"  # what stands for an engine that no GPU here can run
