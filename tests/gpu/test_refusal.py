"""What a user sees on a GPU that an engine was not built for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aigc_export.line.exporter import export_model
from aigc_export.recipes.recipe import export_recipe
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_runtime.backends.trt.rebuild import RTX_CAPABILITIES
from aigc_runtime.device.probe import Gpu
from aigc_runtime.errors import EngineError
from aigc_runtime.opening import open_session

from .conftest import lacks, require_package

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(900)]


def test_an_engine_for_another_gpu_is_refused_from_the_manifest(gpu: Gpu, tmp_path: Path) -> None:
    require_package("tensorrt_rtx", "pip install 'aigc-export[rtx]'")
    others = [
        text
        for text in RTX_CAPABILITIES
        if lacks(replace(gpu, compute_capability=text), "tensorrt-rtx", "fp32") is None
    ]
    other = next(text for text in others if text != gpu.compute_capability)
    build = BuildSettings(compute_capabilities=(other,), optimization_level=0)
    recipe = export_recipe("gan", target="tensorrt-rtx", quality_samples=0, build=build)
    bundle = export_model(recipe, tmp_path / "gan").bundle
    with pytest.raises(EngineError, match=r"the engine does not run here: .*compute capability: ") as caught:
        open_session(bundle)
    print(f"\n{gpu.name}:\n{caught.value}")
    assert f"{gpu.compute_capability}, built for {other}" in caught.value.message
    assert "aigc-export export gan --target" in caught.value.hint
