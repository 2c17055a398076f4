"""Pipelines of Stable Diffusion: every part computes what diffusers' and transformers' own components compute."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aigc_models.program import Program
from aigc_models.sources import resolve
from aigc_models.torch_session import open_torch
from aigc_runtime.errors import AigcError, CheckpointError
from aigc_runtime.pipelines.text_to_image import TextToImagePipeline

from .parts_beside import far, run
from .small_sd import PIPELINES, clip_vocabulary, diffusers, make_tiny_vae, write_stable_diffusion


@functools.cache
def written(name: str) -> tuple[Any, Program]:
    """Diffusers' pipeline, and ours of its folder."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = write_stable_diffusion(Path(folder) / "sd", name)
        return theirs, resolve(str(Path(folder) / "sd"))


def prompts(program: Program) -> Tensor:
    torch.manual_seed(2)
    return torch.randint(0, len(clip_vocabulary()), (2, program.settings.prompt_tokens))


@pytest.mark.parametrize("name", PIPELINES)
def test_every_part_is_theirs(name: str) -> None:
    theirs, ours = written(name)
    assert ours.kind == "text_to_image"
    assert ours.engines == {n: n for n in ("text_encoder", "unet", "vae_decoder", "vae_encoder")}
    torch.manual_seed(3)
    ids = prompts(ours)
    config = theirs.unet.config
    sample, timestep = torch.randn(2, config.in_channels, 16, 24), torch.tensor([3.0, 741.0])
    condition = [torch.randn(2, config.time_cond_proj_dim)] if config.time_cond_proj_dim else []
    latent, image = torch.randn(2, 4, 3, 5), torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        states = theirs.text_encoder(ids)[0]
        assert not far(run(ours, "text_encoder", ids)[0], states)
        cond = {"timestep_cond": condition[0]} if condition else {}
        expected = theirs.unet(sample, timestep, states, **cond).sample
        assert not far(run(ours, "unet", sample, timestep, states, *condition)[0], expected)
        assert far(run(ours, "unet", sample, timestep + 1, states, *condition)[0], expected)
        assert not far(run(ours, "vae_decoder", latent)[0], theirs.vae.decode(latent).sample)
        mean, std = run(ours, "vae_encoder", image)
        found = theirs.vae.encode(image).latent_dist
        assert not far(mean, found.mean)
        assert not far(std, found.std)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_settings_are_those_of_the_folder(name: str) -> None:
    theirs, ours = written(name)
    settings, unet = ours.settings, theirs.unet.config
    assert settings.latent_shape == (4, unet.sample_size, unet.sample_size)
    assert settings.size == (8 * unet.sample_size, 8 * unet.sample_size)
    assert settings.scaling_factor == theirs.vae.config.scaling_factor
    assert settings.pad_token_id == theirs.tokenizer.pad_token_id
    assert settings.prompt_tokens == theirs.tokenizer.model_max_length
    assert settings.unet_channels == unet.in_channels
    assert settings.schedule.prediction_type == theirs.scheduler.config.prediction_type
    assert settings.default_guidance_scale == (8.5 if name == "LCM" else 7.5)
    assert settings.default_steps == (4 if name == "LCM" else 50)


def test_parts_share_no_weights_and_hold_all_of_them() -> None:
    theirs, ours = written("SD 1.5")
    counted = {name: sum(p.numel() for p in part.module.state_dict().values()) for name, part in ours.parts.items()}
    vae = theirs.vae.num_parameters()
    assert counted["vae_decoder"] + counted["vae_encoder"] == vae
    assert ours.parameters == sum(counted.values())
    assert counted["unet"] == theirs.unet.num_parameters()
    assert counted["text_encoder"] == theirs.text_encoder.num_parameters()


def test_the_digest_is_of_all_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_stable_diffusion(tmp_path / name)
    vae = write_stable_diffusion(tmp_path / "c").vae
    with torch.no_grad():
        vae.post_quant_conv.bias += 1
    vae.save_pretrained(tmp_path / "c" / "vae")
    a, b, c = (resolve(str(tmp_path / name)) for name in "abc")
    assert a.weights_sha256 == b.weights_sha256 != c.weights_sha256
    assert a.checkpoint is not None
    assert a.checkpoint.path == tmp_path / "a"
    assert len(a.checkpoint.tensors) == len(list(a.checkpoint.tensors))


def test_sides_are_fixed_where_that_is_asked_for(tmp_path: Path) -> None:
    write_stable_diffusion(tmp_path / "sd")
    program = resolve(str(tmp_path / "sd"), options={"dynamic_size": False})
    assert {dim.name for part in program.parts.values() for dim in part.interface.dims} == {"batch"}
    assert program.parts["unet"].interface.inputs[0].shape == ("batch", 4, 16, 16)
    assert program.parts["vae_decoder"].interface.outputs[0].shape == ("batch", 3, 128, 128)
    assert program.parts["vae_encoder"].interface.outputs[1].shape == ("batch", 4, 16, 16)
    with pytest.raises(AigcError, match=r"export option of .* 'cache'"):
        resolve(str(tmp_path / "sd"), options={"cache": "buffer"})


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_a_component_whose_weights_are_another_models(component: str, tmp_path: Path) -> None:
    write_stable_diffusion(tmp_path / "sd")
    other: dict[str, dict[str, Any]] = {"unet": {"unet": {**PIPELINES["SD 1.5"]["unet"], "layers_per_block": 1}}}
    other |= {"vae": {"vae": {"layers_per_block": 1}}}
    other |= {"text_encoder": {"text": {**PIPELINES["SD 1.5"]["text"], "num_hidden_layers": 2}}}
    write_stable_diffusion(tmp_path / "other", **other[component])
    for file in (tmp_path / "other" / component).glob("*.safetensors"):
        (tmp_path / "sd" / component / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match=rf"{component}.* (lacks tensor|has a tensor)"):
        resolve(str(tmp_path / "sd"))


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning:diffusers.*")
def test_a_tiny_autoencoder_in_a_pipeline(tmp_path: Path) -> None:
    """No latent is drawn from a distribution: the noise is the first that a generator gives."""
    pillow = pytest.importorskip("PIL.Image")
    theirs = write_stable_diffusion(tmp_path / "sd", make_vae=make_tiny_vae)
    program = resolve(str(tmp_path / "sd"))
    assert [spec.name for spec in program.parts["vae_encoder"].interface.outputs] == ["mean"]
    assert program.settings.scaling_factor == 1.0
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    begun = diffusers.StableDiffusionImg2ImgPipeline(**theirs.components, requires_safety_checker=False)
    begun.set_progress_bar_config(disable=True)
    given = {"image": pillow.fromarray(image), "strength": 0.5, "num_inference_steps": 6, "output_type": "np"}
    expected = begun("a lighthouse", generator=torch.Generator().manual_seed(7), **given).images
    with TextToImagePipeline(open_torch(program), program.settings, program.engines) as ours:
        asked: dict[str, Any] = {"image": image, "steps": 6, "seed": 7, "output": "images"}
        found, other = (np.clip(ours.generate("a lighthouse", strength=s, **asked) / 2 + 0.5, 0, 1) for s in (0.5, 0.7))
    assert np.abs(found.transpose(0, 2, 3, 1) - expected).max() <= 1e-4
    assert np.abs(other.transpose(0, 2, 3, 1) - expected).max() > 1e-2
