"""Folders of diffusers: layouts that occur, and parts that do not belong together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from aigc_models.sources import outline, resolve
from aigc_models.sources.diffusers.folder import ASSUMED, read_folder
from aigc_models.sources.diffusers.given import read_given, require
from aigc_runtime.errors import AigcError, CheckpointError

from .small import make_unet, write_pipeline


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pipeline(tmp_path / "tiny", beta_end=0.03)
    return tmp_path / "tiny"


def edit(file: Path, **changes: Any) -> None:
    """Set fields of a JSON file; None takes one out."""
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def test_a_pipeline_brings_its_schedule_and_sampler(folder: Path) -> None:
    settings = resolve(str(folder)).settings
    assert (settings.default_sampler, settings.sampler_config.follows) == ("ddpm", "diffusers")
    assert settings.schedule.beta_end == 0.03
    assert settings.default_steps == 50
    assert settings.sample_shape == (3, 16, 16)


def test_a_pipeline_whose_files_lie_in_one_folder(folder: Path) -> None:
    """As the first ones were published."""
    expected = read_folder(folder)
    for file in ("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        (folder / file).rename(folder / Path(file).name)
    shutil.rmtree(folder / "unet")
    shutil.rmtree(folder / "scheduler")
    found = read_folder(folder)
    assert (found.unet, found.scheduler, found.kind) == (expected.unet, expected.scheduler, "DDPMPipeline")
    assert resolve(str(folder)).kind == "diffusion"


def test_a_unet_inside_a_pipeline_brings_its_scheduler(folder: Path) -> None:
    for path in (folder / "unet", folder / "unet" / "diffusion_pytorch_model.safetensors"):
        assert read_folder(path).scheduler == read_folder(folder).scheduler
        assert resolve(str(path)).settings == resolve(str(folder)).settings


def test_a_unet_that_is_alone_says_what_is_assumed(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "unet", tmp_path / "alone")
    program = resolve(str(tmp_path / "alone"))
    assert program.settings.schedule == ASSUMED.schedule
    assert any("no scheduler_config.json: a linear schedule of 1,000 steps" in note for note in program.notes)


def test_no_bound_is_not_json_but_is_what_diffusers_writes(tmp_path: Path) -> None:
    write_pipeline(tmp_path / "tiny", scheduler="DPMSolverMultistep")
    assert "-Infinity" in (tmp_path / "tiny" / "scheduler" / "scheduler_config.json").read_text()
    read = read_folder(tmp_path / "tiny").scheduler
    assert (read.sampler, read.config.lambda_min_clipped) == ("dpmpp_2m", None)


def test_an_outline_takes_no_weights(folder: Path) -> None:
    source, found = outline(str(folder))
    unet = make_unet()
    assert (source, found.kind, found.architecture, found.family) == (
        "diffusers",
        "diffusion",
        "UNet2DModel",
        "DDPMPipeline",
    )
    assert found.parameters == unet.num_parameters()
    assert found.stored == {"float32": 4 * unet.num_parameters()}
    assert "16 x 16 pixels of 3 channels; sampler ddpm, 1,000 training steps" in found.notes[0]


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "_class_name is 'FluxPipeline'"),
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "names no text_encoder"),
        ("model_index.json", {"_class_name": ["DDPMPipeline"]}, "which is not supported\nsupported: DDPMPipeline"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderKL"]}, "the component 'vae' is not known"),
        ("model_index.json", {"scheduler": None}, "names no scheduler\nis it complete"),
        ("model_index.json", {"scheduler": ["diffusers", "DDIMScheduler"]}, "do not belong together"),
        ("model_index.json", {"unet": "UNet2DModel"}, "do not belong together"),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "do not belong together"),
        ("unet/config.json", {"in_channels": 4}, "out_channels is 3, in_channels is 4"),
        ("unet/config.json", {"out_channels": 6}, "out_channels is 6, in_channels is 3, the schedule's variance_type"),
        ("unet/config.json", {"sample_size": 15}, "sample_size is 15\nmust be a multiple of 2"),
        ("scheduler/scheduler_config.json", {"variance_type": "learned"}, "the schedule's variance_type 'learned'"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'"),
    ],
)
def test_parts_that_do_not_belong_together(file: str, changes: dict[str, Any], message: str, folder: Path) -> None:
    edit(folder / file, **changes)
    if message.startswith("out_channels is 6") or "variance_type 'learned'" in message:
        write_weights_of(folder, changes)
    with pytest.raises(AigcError, match=message):
        resolve(str(folder))


def write_weights_of(folder: Path, changes: dict[str, Any]) -> None:
    """Weights that fit, so that nothing is wrong but the schedule."""
    if "out_channels" in changes:
        make_unet(**changes).save_pretrained(folder / "unet")


def test_a_table_of_fewer_steps_than_the_scheduler_has(tmp_path: Path) -> None:
    unet = make_unet(time_embedding_type="learned", num_train_timesteps=10)
    write_pipeline(tmp_path / "tiny", unet=unet)
    with pytest.raises(CheckpointError, match="the scheduler has 1,000 training steps, the UNet's table of steps 10"):
        resolve(str(tmp_path / "tiny"))


def test_a_table_of_steps_with_fractions_of_steps(tmp_path: Path) -> None:
    unet = make_unet(time_embedding_type="learned", num_train_timesteps=1000)
    write_pipeline(tmp_path / "tiny", unet=unet, scheduler="EulerDiscrete", use_karras_sigmas=True)
    with pytest.raises(CheckpointError, match="fractions of a step"):
        resolve(str(tmp_path / "tiny"))


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": NaN}', b"\xff"])
def test_damaged_json(file: str, content: bytes, folder: Path) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=Path(file).name):
        resolve(str(folder))


def test_a_missing_file(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"scheduler_config\.json' is not there"):
        resolve(str(folder))


def test_options_of_other_models_are_refused(folder: Path) -> None:
    with pytest.raises(AigcError, match=r"export option of .* 'cache'"):
        resolve(str(folder), options={"cache": "buffer"})
    with pytest.raises(AigcError, match="leave --checkpoint out"):
        resolve(str(folder), options={"checkpoint": "a"})
    assert resolve(str(folder), options={"dynamic_size": True}).parts["model"].interface.dim("height") is not None


def test_fields_are_read_or_refused() -> None:
    defaults = {"a": 1, "b": None}
    assert read_given({"b": 2, "_note": 3, "old": None, "other": 5}, defaults, where="f", unused=("other",)) == {
        "a": 1,
        "b": 2,
    }
    with pytest.raises(CheckpointError, match="f: the field 'c' is 3"):
        read_given({"c": 3}, defaults, where="f")
    given: dict[str, Any] = {"a": 1, "flag": False}
    require(given, {"flag": (False, None)}, where="f")
    assert given == {"a": 1}
    with pytest.raises(CheckpointError, match="f: flag is 0, which is not supported\nsupported: False"):
        require({"flag": 0}, {"flag": (False,)}, where="f")
