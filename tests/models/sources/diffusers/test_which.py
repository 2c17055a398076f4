"""What a path of diffusers is taken for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aigc_models.sources.diffusers.which import form_of, is_diffusers
from aigc_runtime.errors import CheckpointError

COMPONENTS: dict[str, list[dict[str, Any]]] = {
    "unet": [{"_class_name": "UNet2DModel"}, {"_class_name": "UNet2DConditionModel"}],
    "vae": [{"_class_name": "AutoencoderKL"}, {"_class_name": "AutoencoderTiny"}],
    "text_encoder": [{"model_type": "clip_text_model", "architectures": ["CLIPTextModel"]}],
}
PIPELINES = {
    "DDPMPipeline": "unet",
    "DDIMPipeline": "unet",
    "StableDiffusionPipeline": "text_to_image",
    "StableDiffusionInpaintPipeline": "text_to_image",
    "LatentConsistencyModelPipeline": "text_to_image",
    "StableDiffusionXLPipeline": "text_to_image",
}


@pytest.mark.parametrize("form", COMPONENTS)
def test_components(form: str, tmp_path: Path) -> None:
    for config in COMPONENTS[form]:
        assert is_diffusers(tmp_path, config)
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert form_of(tmp_path) == form_of(tmp_path / "weights.safetensors") == form


@pytest.mark.parametrize("kind", PIPELINES)
def test_pipelines(kind: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    assert is_diffusers(tmp_path, None)
    assert form_of(tmp_path) == PIPELINES[kind]


@pytest.mark.parametrize(
    "config", [None, {}, {"_class_name": "Transformer2DModel"}, {"_class_name": ["AutoencoderKL"]}]
)
def test_others(config: dict[str, Any] | None, tmp_path: Path) -> None:
    assert not is_diffusers(tmp_path, config)


@pytest.mark.parametrize("kind", ["FluxPipeline", None, ["DDPMPipeline"]])
def test_a_pipeline_that_is_not_supported(kind: object, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(CheckpointError, match="which is not supported\nsupported: DDPMPipeline") as caught:
        form_of(tmp_path)
    assert "AutoencoderKL" in caught.value.hint
    assert "aigc-export export file.py:function" in caught.value.hint
