"""A second opinion on whole requests: diffusers' pipelines over the same modules, from the same seeds on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.compare import psnr_db
from aigc_runtime.core.tensors import Array

from .stable_diffusion_toys import SCHEDULERS, make_components, make_pipeline, our_pipeline, torch

Image: Any = pytest.importorskip("PIL.Image")
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers.*"),
]

MAX_ERROR = 1e-4
"""Of the latents' scale."""
MIN_PSNR_DB = 60.0
SEED = 7
PROMPT, NEGATIVE = "a lighthouse at dusk", "blur"


@pytest.fixture(scope="module")
def components() -> dict[str, Any]:
    return make_components()


@pytest.fixture(scope="module")
def inpainting() -> dict[str, Any]:
    return make_components(channels=9)


def generators(count: int) -> list[Any]:
    return [torch.Generator().manual_seed(SEED + i) for i in range(count)]


def error(theirs: Any, ours: Array) -> float:
    expected = theirs.numpy() if hasattr(theirs, "numpy") else theirs
    assert expected.shape == ours.shape
    return float(np.abs(ours - expected).max() / expected.std())


NAMES = list(SCHEDULERS)


def their_latents(pipeline: Any, prompt: Any, *inputs: Any, count: int = 1, **given: Any) -> Any:
    return pipeline(prompt, *inputs, generator=generators(count), output_type="latent", **given).images


@pytest.mark.parametrize(
    ("scheduler", "guidance", "negative", "steps"),
    [
        *((name, 1.0, "", 5) for name in NAMES),
        *((name, 5.0, NEGATIVE, 6) for name in NAMES),
        *((name, 7.5, "", 20) for name in ("pndm", "dpm-solver++")),
    ],
)
def test_equal_seeds_give_diffusers_latents(
    components: dict[str, Any], scheduler: str, guidance: float, negative: str, steps: int
) -> None:
    given: dict[str, Any] = {"guidance_scale": guidance, "num_inference_steps": steps, "num_images_per_prompt": 2}
    if negative:
        given["negative_prompt"] = negative
    expected = their_latents(make_pipeline(components, scheduler), PROMPT, count=2, **given)
    with our_pipeline(components, scheduler) as ours:
        asked: dict[str, Any] = {"guidance_scale": guidance, "steps": steps, "count": 2, "output": "latents"}
        found = ours.generate(PROMPT, negative=negative, seed=SEED, **asked)
        other = ours.generate(PROMPT, negative=negative, seed=SEED + 1, **asked)
    assert error(expected, found) <= MAX_ERROR
    assert error(expected, other) > 100 * MAX_ERROR


def test_the_pictures_are_diffusers(components: dict[str, Any]) -> None:
    given: dict[str, Any] = {"num_inference_steps": 4, "num_images_per_prompt": 2, "output_type": "np"}
    pictures = make_pipeline(components)(PROMPT, generator=generators(2), **given).images
    with our_pipeline(components) as ours:
        found = ours.generate(PROMPT, steps=4, count=2, seed=SEED)
        images = ours.generate(PROMPT, steps=4, count=2, seed=SEED, output="images")
    assert found.shape == (2, 16, 16, 3)
    assert found.dtype == np.uint8
    rounded = (pictures * 255).round()
    assert np.abs(found - rounded).max() <= 1
    assert psnr_db(rounded, found.astype(np.float64)) >= MIN_PSNR_DB
    assert psnr_db(pictures.transpose(0, 3, 1, 2), np.clip(images / 2 + 0.5, 0, 1)) >= MIN_PSNR_DB
    assert len(np.unique(found)) > 50


def test_a_model_that_guidance_was_distilled_into_takes_it_as_an_input(components: dict[str, Any]) -> None:
    components = {**components, "unet": make_components(time_cond_proj_dim=10)["unet"]}
    theirs = make_pipeline(components, "lcm", kind="LatentConsistencyModel")
    expected = their_latents(theirs, PROMPT, guidance_scale=5.0, num_inference_steps=4)
    with our_pipeline(components, "lcm") as ours:
        found, other = (
            ours.generate(PROMPT, guidance_scale=scale, steps=4, seed=SEED, output="latents") for scale in (5.0, 6.0)
        )
    assert error(expected, found) <= MAX_ERROR
    assert error(expected, other) > 10 * MAX_ERROR


def test_guidance_is_rescaled(components: dict[str, Any]) -> None:
    given: dict[str, Any] = {"guidance_scale": 9.0, "num_inference_steps": 5}
    expected = their_latents(make_pipeline(components), PROMPT, guidance_rescale=0.7, **given)
    with our_pipeline(components) as ours:
        asked: dict[str, Any] = {"guidance_scale": 9.0, "steps": 5, "seed": SEED, "output": "latents"}
        assert error(expected, ours.generate(PROMPT, guidance_rescale=0.7, **asked)) <= MAX_ERROR
        assert error(expected, ours.generate(PROMPT, **asked)) > 10 * MAX_ERROR


def test_several_prompts_of_several_pictures_and_another_size(components: dict[str, Any]) -> None:
    prompts = [PROMPT, "the hill"]
    given: dict[str, Any] = {"num_inference_steps": 4, "height": 24, "width": 16, "num_images_per_prompt": 2}
    expected = their_latents(make_pipeline(components), prompts, count=4, **given)
    with our_pipeline(components) as ours:
        asked: dict[str, Any] = {"steps": 4, "size": (24, 16), "output": "latents"}
        together = ours.generate(prompts, count=2, seed=SEED, **asked)
        alone = ours.generate("the hill", seed=[SEED + 3], **asked)
    assert error(expected, together) <= MAX_ERROR
    assert error(together[3:], alone) <= MAX_ERROR
    assert error(together[2:3], alone) > 10 * MAX_ERROR


def picture(seed: int = 3) -> Array:
    """A smooth picture, so that its latents say something."""
    rows, columns = np.mgrid[0:16, 0:16]
    rng = np.random.default_rng(seed)
    waves = [np.sin(rng.uniform(0.1, 0.6) * rows + rng.uniform(0.1, 0.6) * columns) for _ in range(3)]
    return ((np.stack(waves, axis=2) + 1) * 127).astype(np.uint8)


STARTED = [name for name in NAMES if name != "lcm"]


@pytest.mark.parametrize(
    ("scheduler", "strength", "steps"),
    [
        *((name, 0.6, 10) for name in STARTED),
        *((name, 1.0, 5) for name in ("pndm", "euler linspace", "unipc")),
        *(("pndm", strength, 10) for strength in (0.9, 0.3, 0.1)),
        ("dpm-solver++", 0.3, 20),
        ("unipc", 0.2, 5),
    ],
)
def test_a_picture_is_where_the_sampler_starts(
    components: dict[str, Any], scheduler: str, strength: float, steps: int
) -> None:
    theirs = make_pipeline(components, scheduler, kind="StableDiffusionImg2Img")
    given: dict[str, Any] = {"strength": strength, "num_inference_steps": steps, "guidance_scale": 4.0}
    given["num_images_per_prompt"] = 2
    expected = their_latents(theirs, PROMPT, Image.fromarray(picture()), count=2, **given)
    with our_pipeline(components, scheduler) as ours:
        asked: dict[str, Any] = {"strength": strength, "steps": steps, "count": 2, "guidance_scale": 4.0}
        found = ours.generate(PROMPT, image=picture(), seed=SEED, output="latents", **asked)
        other = ours.generate(PROMPT, image=picture(4), seed=SEED, output="latents", **asked)
    assert error(expected, found) <= MAX_ERROR
    assert error(expected, other) > 10 * MAX_ERROR


def mask() -> Array:
    white = np.zeros((16, 16), dtype=np.uint8)
    white[3:11, 5:16] = 255
    white[0, 0] = 127
    white[14, 2] = 128
    return white


@pytest.mark.parametrize(
    ("scheduler", "strength", "steps"),
    [
        *((name, 1.0, 5) for name in ("pndm", "euler linspace", "unipc")),
        *((name, 0.6, 10) for name in ("pndm", "ddim", "euler ancestral", "unipc")),
    ],
)
@pytest.mark.parametrize("taken", [False, True], ids=["blended", "beside"])
def test_a_mask_says_what_is_painted_anew(
    components: dict[str, Any], inpainting: dict[str, Any], scheduler: str, strength: float, steps: int, taken: bool
) -> None:
    chosen = inpainting if taken else components
    theirs = make_pipeline(chosen, scheduler, kind="StableDiffusionInpaint")
    given: dict[str, Any] = {"strength": strength, "num_inference_steps": steps, "guidance_scale": 4.0}
    files = Image.fromarray(picture()), Image.fromarray(mask())
    expected = [
        theirs(PROMPT, *files, generator=generator, height=16, width=16, output_type="latent", **given).images
        for generator in generators(2)
    ]
    with our_pipeline(chosen, scheduler) as ours:
        asked: dict[str, Any] = {"strength": strength, "steps": steps, "guidance_scale": 4.0, "output": "latents"}
        found = ours.generate(PROMPT, image=picture(), mask=mask(), seed=SEED, count=2, **asked)
        other = ours.generate(PROMPT, image=picture(), mask=mask()[::-1].copy(), seed=SEED, count=2, **asked)
    assert error(torch.cat(expected), found) <= MAX_ERROR
    assert error(torch.cat(expected), other) > 10 * MAX_ERROR
