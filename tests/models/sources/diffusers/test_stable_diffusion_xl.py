"""Pipelines of Stable Diffusion XL: parts compute what diffusers' and transformers' do, requests give its latents."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aigc_models.families.unet import UNet
from aigc_models.program import Program
from aigc_models.sources import outline, resolve
from aigc_models.sources.diffusers.unet_condition import read_unet_condition
from aigc_models.torch_session import open_torch
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import AigcError
from aigc_runtime.pipelines.text_to_image import TextToImagePipeline

from .parts_beside import far, run
from .small_sd import clip_vocabulary, diffusers
from .small_xl import XL_BASE_UNET, XL_PIPELINES, write_stable_diffusion_xl

Image: Any = pytest.importorskip("PIL.Image")
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers.*"),
]

MAX_ERROR = 1e-4  # of the latents' scale
SEED, STEPS = 7, 20
PROMPT, NEGATIVE = "a lighthouse at dusk", "blur"
PARAMETERS = 2_567_463_684
"""Of the published UNet."""


@functools.cache
def written(name: str) -> tuple[Any, Program]:
    """Diffusers' pipeline, and ours of its folder."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = write_stable_diffusion_xl(Path(folder) / "xl", name)
        return theirs, resolve(str(Path(folder) / "xl"))


def opened(program: Program) -> TextToImagePipeline:
    return TextToImagePipeline(open_torch(program), program.settings, program.engines)


def error(expected: Tensor, ours: Array) -> float:
    assert tuple(expected.shape) == ours.shape
    return float(np.abs(ours - expected.numpy()).max() / expected.std())


def generators(count: int = 1) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(SEED + i) for i in range(count)]


def their_latents(pipeline: Any, *, count: int = 1, steps: int = STEPS, **given: Any) -> Any:
    asked = {"generator": generators(count), "num_images_per_prompt": count, "num_inference_steps": steps}
    return pipeline(PROMPT, output_type="latent", **asked, **given).images


def prompts() -> Tensor:
    """Tokens as two tokenizers give them, each text with its end."""
    torch.manual_seed(2)
    ids = torch.randint(0, len(clip_vocabulary()) - 2, (2, 77))
    ids[0, 9:], ids[1, 30:] = len(clip_vocabulary()) - 1, len(clip_vocabulary()) - 1
    ids[1, 31:] = 0
    return ids


@pytest.mark.parametrize("name", XL_PIPELINES)
def test_every_part_is_theirs(name: str) -> None:
    theirs, ours = written(name)
    assert tuple(ours.engines) == ("text_encoder", "text_encoder_2", "unet", "vae_decoder", "vae_encoder")
    torch.manual_seed(3)
    ids = prompts()
    sample, timestep = torch.randn(2, 4, 8, 12), torch.tensor([3.0, 741.0])
    sizes = torch.tensor([[64.0, 96, 0, 0, 64, 96], [1024, 1024, 10, 300, 768, 512]])
    latent, image = torch.randn(2, 4, 3, 5), torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        first = theirs.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
        found = theirs.text_encoder_2(ids, output_hidden_states=True)
        assert not far(run(ours, "text_encoder", ids)[0], first)
        states, embeds = run(ours, "text_encoder_2", ids)
        assert not far(states, found.hidden_states[-2])
        assert not far(embeds, found.text_embeds)
        assert far(states, theirs.text_encoder_2(ids).last_hidden_state)
        context = torch.cat([first, found.hidden_states[-2]], dim=2)
        added = {"text_embeds": found.text_embeds, "time_ids": sizes}
        expected = theirs.unet(sample, timestep, context, added_cond_kwargs=added).sample
        assert not far(run(ours, "unet", sample, timestep, context, found.text_embeds, sizes)[0], expected)
        assert far(run(ours, "unet", sample, timestep, context, found.text_embeds, sizes + 1)[0], expected)
        assert far(run(ours, "unet", sample, timestep, context, found.text_embeds + 0.1, sizes)[0], expected)
        assert not far(run(ours, "vae_decoder", latent)[0], theirs.vae.decode(latent).sample)
        assert not far(run(ours, "vae_encoder", image)[0], theirs.vae.encode(image).latent_dist.mean)


def test_the_first_text_encoder_holds_no_weight_that_nothing_needs() -> None:
    theirs, ours = written("base")
    held = ours.parts["text_encoder"].module.state_dict()
    assert not any("layers.2." in name or "final_layer_norm" in name for name in held)
    assert sum(t.numel() for t in held.values()) < theirs.text_encoder.num_parameters()
    of_second = ours.parts["text_encoder_2"].module.state_dict()
    assert sum(t.numel() for t in of_second.values()) == theirs.text_encoder_2.num_parameters()


def test_the_settings_are_those_of_the_folder() -> None:
    theirs, ours = written("base")
    settings = ours.settings
    assert settings.size == (64, 64)
    assert settings.scaling_factor == 0.13025
    assert settings.second.pad_token_id == theirs.tokenizer_2.pad_token_id != settings.pad_token_id
    assert (settings.default_guidance_scale, settings.default_sampler) == (5.0, "euler")
    assert settings.zero_negative
    assert not written("an end that is said")[1].settings.zero_negative
    assert sorted(ours.assets) == ["tokenizer.json", "tokenizer_2.json"]
    assert any("vae_decoder=fp32,vae_encoder=fp32" in note for note in ours.notes)


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("base", {}, {}),
        pytest.param(
            "base",
            {"negative_prompt": NEGATIVE, "guidance_scale": 7.0},
            {"negative": NEGATIVE, "guidance_scale": 7.0},
            marks=pytest.mark.slow,
        ),
        pytest.param("base", {"negative_prompt": ""}, {"negative": ""}, marks=pytest.mark.slow),
        pytest.param("an end that is said", {}, {}, marks=pytest.mark.slow),
        ("turbo", {"guidance_scale": 0.0}, {"guidance_scale": 0.0}),
    ],
)
def test_equal_seeds_give_diffusers_latents(name: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    pipeline, program = written(name)
    expected = their_latents(pipeline, count=2, **theirs)
    with opened(program) as mine:
        asked: dict[str, Any] = {"steps": STEPS, "count": 2, "output": "latents", **ours}
        found = mine.generate(PROMPT, seed=SEED, **asked)
        assert error(expected, found) <= MAX_ERROR
        assert error(expected, mine.generate(PROMPT, seed=SEED + 1, **asked)) > 100 * MAX_ERROR


SECOND, SECOND_NEGATIVE = "the house light", "dusk at the star"


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("base", {"prompt_2": SECOND}, {"prompt_2": SECOND}),
        ("base", {"prompt_2": ""}, {"prompt_2": ""}),
        (
            "base",
            {"prompt_2": SECOND, "negative_prompt": NEGATIVE, "negative_prompt_2": SECOND_NEGATIVE},
            {"prompt_2": SECOND, "negative": NEGATIVE, "negative_2": SECOND_NEGATIVE},
        ),
        ("an end that is said", {"negative_prompt_2": SECOND_NEGATIVE}, {"negative_2": SECOND_NEGATIVE}),
    ],
)
def test_a_second_prompt_is_read_by_the_second_text_encoder(
    name: str, theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
    pipeline, program = written(name)
    expected = their_latents(pipeline, count=2, steps=5, **theirs)
    with opened(program) as mine:
        asked: dict[str, Any] = {"steps": 5, "count": 2, "seed": SEED, "output": "latents"}
        assert error(expected, mine.generate(PROMPT, **asked, **ours)) <= MAX_ERROR
        for left_out in (key for key, text in ours.items() if text):
            others = {key: text for key, text in ours.items() if key != left_out}
            if "negative" in others or left_out != "negative":
                assert error(expected, mine.generate(PROMPT, **asked, **others)) > 10 * MAX_ERROR, left_out


def test_no_negative_text_and_an_empty_one_are_two_things() -> None:
    with opened(written("base")[1]) as ours:
        asked: dict[str, Any] = {"steps": 2, "seed": SEED, "output": "latents"}
        assert not np.array_equal(ours.generate(PROMPT, **asked), ours.generate(PROMPT, negative="", **asked))
    with opened(written("an end that is said")[1]) as ours:
        assert np.array_equal(ours.generate(PROMPT, **asked), ours.generate(PROMPT, negative="", **asked))


def test_sizes_are_seen() -> None:
    pipeline, program = written("base")
    given: dict[str, Any] = {"original_size": (512, 768), "crops_coords_top_left": (16, 0), "target_size": (1024, 1024)}
    expected = their_latents(pipeline, steps=4, height=64, width=96, **given)
    with opened(program) as ours:
        asked: dict[str, Any] = {"steps": 4, "size": (64, 96), "seed": SEED, "output": "latents"}
        seen: dict[str, Any] = {"original_size": (512, 768), "crop": (16, 0), "target_size": (1024, 1024)}
        assert error(expected, ours.generate(PROMPT, **asked, **seen)) <= MAX_ERROR
        for name in seen:
            others = {key: value for key, value in seen.items() if key != name}
            assert error(expected, ours.generate(PROMPT, **asked, **others)) > MAX_ERROR, name


def photo(height: int, width: int) -> Array:
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * y // height, 255 * x // width, (7 * x + 3 * y) % 256], axis=2).astype(np.uint8)


def test_a_picture_to_begin_with() -> None:
    pipeline, program = written("base")
    image = photo(64, 96)
    theirs = diffusers.StableDiffusionXLImg2ImgPipeline(**pipeline.components)
    theirs.set_progress_bar_config(disable=True)
    given = {"image": Image.fromarray(image), "strength": 0.6, "negative_prompt": NEGATIVE}
    expected = their_latents(theirs, count=2, **given)
    with opened(program) as ours:
        asked: dict[str, Any] = {"steps": STEPS, "count": 2, "seed": SEED, "output": "latents", "negative": NEGATIVE}
        assert error(expected, ours.generate(PROMPT, image=image, strength=0.6, **asked)) <= MAX_ERROR
        assert error(expected, ours.generate(PROMPT, image=image, strength=0.7, **asked)) > 10 * MAX_ERROR


@pytest.mark.parametrize("channels", [4, pytest.param(9, marks=pytest.mark.slow)])
def test_a_mask(channels: int, tmp_path: Path) -> None:
    kind = "StableDiffusionXLInpaintPipeline"
    theirs = write_stable_diffusion_xl(tmp_path / "xl", kind=kind, unet={"in_channels": channels})
    image, mask = photo(64, 64), np.zeros((64, 64), np.uint8)
    mask[16:40, 8:48] = 255
    given = {"image": Image.fromarray(image), "mask_image": Image.fromarray(mask), "height": 64, "width": 64}
    expected = their_latents(theirs, strength=0.7, **given)
    with opened(resolve(str(tmp_path / "xl"))) as ours:
        asked: dict[str, Any] = {"steps": STEPS, "seed": SEED, "output": "latents", "strength": 0.7}
        assert error(expected, ours.generate(PROMPT, image=image, mask=mask, **asked)) <= MAX_ERROR
        assert error(expected, ours.generate(PROMPT, image=image, mask=255 - mask, **asked)) > 10 * MAX_ERROR


def test_the_published_unet_has_its_number_of_parameters() -> None:
    values = json.loads(json.dumps({"_class_name": "UNet2DConditionModel", **XL_BASE_UNET}))
    with torch.device("meta"):
        model = UNet(read_unet_condition(values))
        theirs = diffusers.UNet2DConditionModel(**XL_BASE_UNET)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS == theirs.num_parameters()
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("xl") / "xl"
    write_stable_diffusion_xl(folder)
    return folder


def test_an_outline_counts_both_text_encoders(original: Path) -> None:
    _, found = outline(str(original))
    assert found.architecture == "StableDiffusionXLPipeline"
    assert "text_encoder_2" in found.notes[-1]


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"requires_aesthetics_score": True}, "a refiner, which sees an aesthetic score"),
        ("model_index.json", {"text_encoder": [None, None]}, "names no text_encoder"),
        (
            "model_index.json",
            {"text_encoder_2": ["transformers", "CLIPTextModel"]},
            "text_encoder_2 is .*not supported",
        ),
        ("text_encoder_2/config.json", {"architectures": ["CLIPTextModel"]}, "its config.json is of 'CLIPTextModel'"),
        ("text_encoder_2/config.json", {"projection_dim": 24}, "20 numbers .* projection_dim is 24"),
        (
            "text_encoder_2/config.json",
            {"hidden_size": 44},
            r"cross_attention_dim is 64, the text encoders' hidden_size 24 \+ 44",
        ),
        ("text_encoder_2/config.json", {"eos_token_id": 10**6}, "eos_token_id is 1000000"),
        ("unet/config.json", {"addition_embed_type": "text_image"}, "addition_embed_type is 'text_image'"),
        ("unet/config.json", {"addition_time_embed_dim": None}, "addition_time_embed_dim is None"),
        ("unet/config.json", {"addition_time_embed_dim": 7}, "addition_time_embed_dim is 7"),
        (
            "unet/config.json",
            {"projection_class_embeddings_input_dim": 48},
            "projection_class_embeddings_input_dim is 48",
        ),
        ("tokenizer_2/tokenizer_config.json", {"model_max_length": 70}, "prompts of 70 and 77 tokens"),
    ],
)
def test_components_that_do_not_belong_together(
    original: Path, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    shutil.copytree(original, tmp_path / "xl")
    path = tmp_path / "xl" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(AigcError, match=message):
        outline(str(tmp_path / "xl"))


def test_a_unet_that_sees_sizes_runs_in_its_pipeline_only(original: Path) -> None:
    with pytest.raises(AigcError, match="addition_embed_type is text_time"):
        resolve(str(original / "unet"))
