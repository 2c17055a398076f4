"""What diffusers' pipelines change in their components: read from what they make of old folders."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from aigc_models.sources.diffusers.text_to_image import read_text_to_image

from .small_sd import SCALED, diffusers, write_stable_diffusion

OLD: dict[str, Any] = {
    "an offset of 0": diffusers.PNDMScheduler(**SCALED, skip_prk_steps=True),
    "samples that are clipped": diffusers.DDIMScheduler(**SCALED, clip_sample=True, steps_offset=1),
    "steps by Runge-Kutta": diffusers.PNDMScheduler(**SCALED, skip_prk_steps=False),
    "nothing": diffusers.PNDMScheduler(**SCALED, skip_prk_steps=True, steps_offset=1),
}
FIELDS = ("steps_offset", "clip_sample", "skip_prk_steps")


def write_old(folder: Path, scheduler: Any, **options: Any) -> dict[str, Any]:
    """Write a folder with a scheduler as it is; returns the configuration with which diffusers runs it."""
    pipeline = write_stable_diffusion(folder, **options)
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", type(scheduler).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of every change
        loaded = type(pipeline).from_pretrained(folder, safety_checker=None)
    return {**loaded.scheduler.config, "sample_size": loaded.unet.config.sample_size}


@pytest.mark.parametrize("kind", ["StableDiffusionPipeline", "StableDiffusionInpaintPipeline"])
@pytest.mark.parametrize("name", OLD)
def test_schedulers_run_as_diffusers_runs_them(name: str, kind: str, tmp_path: Path) -> None:
    own = dict(OLD[name].config)
    theirs = write_old(tmp_path / "sd", OLD[name], kind=kind)
    found = read_text_to_image(tmp_path / "sd")
    assert found.settings.schedule.steps_offset == theirs["steps_offset"]
    assert found.settings.schedule.clip_sample == theirs.get("clip_sample", False)
    if "skip_prk_steps" in theirs:
        assert found.settings.sampler_config.skip_prk_steps == theirs["skip_prk_steps"]
    changed = [field for field in FIELDS if theirs.get(field) != own.get(field)]
    assert [field for field in FIELDS for note in found.notes if f"the scheduler's {field} is" in note] == changed


@pytest.mark.parametrize(("version", "size"), [("0.6.0", 64), ("0.9.0", 16), ("0.42.1", 16), ("of old", 16)])
def test_the_size_of_a_unet_of_an_old_version(version: str, size: int, tmp_path: Path) -> None:
    write_stable_diffusion(tmp_path / "sd")
    file = tmp_path / "sd" / "unet" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "_diffusers_version": version}))
    found = read_text_to_image(tmp_path / "sd")
    assert found.settings.latent_size == (size, size)
    assert any("sample_size is 16, and StableDiffusionPipeline makes it 64" in n for n in found.notes) == (size == 64)
