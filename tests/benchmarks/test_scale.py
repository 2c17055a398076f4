"""The models that growth is measured on are of the size that they say, and the figures follow from them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aigc_models.sources.shipped import load_shipped


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", Path(__file__).parents[2] / "benchmarks" / "scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_checkpoint_in_shards_is_the_model_that_was_meant(scale: ModuleType, tmp_path: Path) -> None:
    shape = scale.Shape(layers=1, width=512, context=16)
    parameters = scale.make_checkpoint(tmp_path / "model", shape, shard_bytes=2**21)
    shards = sorted((tmp_path / "model").glob("model-*-of-*.safetensors"))
    assert len(shards) > 2
    largest = 2 * 512 * shape.config["d_ff"]
    assert all(shard.stat().st_size < max(2**21, largest) + 2**16 for shard in shards)
    program = load_shipped("lm", checkpoint=tmp_path / "model")
    assert sum(tensor.numel() for tensor in program.part.module.parameters()) == parameters
    # 10.5 squares of the width in a block: queries and outputs, keys and values of an eighth, three of 2.75.
    assert parameters == pytest.approx(10.5 * 512**2 + 2 * 256 * 512, rel=1e-3)


def test_the_slope_and_the_limit(scale: ModuleType) -> None:
    def result(weights: int, peak: int) -> dict[str, Any]:
        return {"float32_bytes": weights, "peak_bytes": peak}

    assert scale.slope([result(1, 5)]) is None
    assert scale.slope([result(1, 5), result(2, 7), result(4, 11)]) == pytest.approx(2.0)
    assert scale.peak_bytes() > 2**20
