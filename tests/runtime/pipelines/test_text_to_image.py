"""Requests of pictures from texts, over engines that are formulas: what is refused, shown and cut into runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import CancelledError, ConfigError, EngineError, InputError, UnknownNameError
from aigc_runtime.pipelines.text_to_image import TextToImagePipeline

from .picture_toys import FROM_TEXT, ROLES, SETTINGS, pipeline, program

INPAINTING = replace(SETTINGS, takes_picture=True)
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
MASK = np.zeros((16, 24), dtype=np.uint8)
MASK[4:12, 8:] = 255


def test_the_forms_of_a_result_belong_together() -> None:
    ours = pipeline()
    latents, images, pictures = (
        ours.generate("a", seed=3, output=output) for output in ("latents", "images", "pictures")
    )
    assert latents.shape == (1, 2, 4, 6)
    z = np.tanh(latents / 0.5 + 0.1)
    np.testing.assert_allclose(images[:, :2, ::4, ::4], z, rtol=1e-5, atol=1e-6)
    assert images.shape == (1, 3, 16, 24)
    np.testing.assert_array_equal(pictures[0, :, :, 0], np.rint((images[0, 0].astype(np.float64) + 1) * 127.5))


@pytest.mark.parametrize("rows", [(1, 1), (1, 2), (1, 3), (2, 2), (4, 4), (3, 8)])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_pictures_do_not_depend_on_what_an_engine_takes_at_once(rows: tuple[int, int], scale: float) -> None:
    asked: dict[str, Any] = {"count": 3, "guidance_scale": scale, "seed": 5, "output": "latents"}
    expected = pipeline().generate(["a", "b"], **asked)
    np.testing.assert_allclose(pipeline(rows=rows).generate(["a", "b"], **asked), expected, rtol=1e-5, atol=1e-6)
    alone = pipeline().generate("b", seed=9, guidance_scale=scale, output="latents")
    np.testing.assert_allclose(alone[0], expected[4], rtol=1e-5, atol=1e-6)


def test_each_text_is_read_once_and_each_engine_released() -> None:
    ours = pipeline()
    runs: list[Any] = []
    released: list[str] = []

    class Watched(ArraySession):
        def run(self, feeds: Any, state: Any = None) -> dict[str, Array]:
            runs.append(feeds["input_ids"].tolist())
            return super().run(feeds, state)

    opened = program()
    sessions = dict(opened.sessions)
    text = sessions["text_encoder"]
    sessions["text_encoder"] = Watched(lambda values: text.run(values), text.interface)

    class Released(OpenProgram):
        def release(self, engine: str) -> None:
            released.append(engine)

    watched = Released(sessions)
    TextToImagePipeline(watched, SETTINGS, ROLES).generate(["a", "b", "a"], negative="b", image=IMAGE)
    assert [row for rows in runs for row in rows] == [[97, *[0] * 9], [98, *[0] * 9]]
    assert released == ["text_encoder", "vae_encoder", "unet", "vae_decoder"]
    assert ours.notes(["short", "0123456789ab"]) == ("a prompt has more than 10 tokens, not seen: 'ab'",)


def test_progress_previews_and_cancelling() -> None:
    ours, told, shown = pipeline(), list[tuple[int, int]](), list[tuple[int, Array]]()
    found = ours.generate(
        "a",
        count=2,
        steps=3,
        output="latents",
        progress=lambda step, steps: told.append((step, steps)),
        preview=lambda step, latents: shown.append((step, latents)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert [step for step, _ in shown] == [1, 2, 3]
    np.testing.assert_array_equal(shown[-1][1], found)
    assert not np.array_equal(shown[0][1], found)
    with pytest.raises(CancelledError, match="cancelled after 2 of 3 steps"):
        ours.generate(
            "a", steps=3, progress=lambda step, steps: told.append((step, steps)), cancel=lambda: len(told) == 5
        )


def test_what_a_mask_leaves_stays_as_the_autoencoder_gives_it() -> None:
    ours = pipeline()
    kept = ours.generate("a", image=IMAGE, mask=MASK, seed=2, output="latents")
    again = ours.generate("b", image=IMAGE, mask=MASK, seed=2, output="latents")
    black = MASK[::4, ::4] == 0
    np.testing.assert_array_equal(kept[..., black], again[..., black])
    assert np.abs(kept[..., ~black] - again[..., ~black]).max() > 0.01
    beside = pipeline(INPAINTING)
    assert beside.generate("a", image=IMAGE, mask=MASK).shape == (1, 16, 24, 3)
    assert beside.generate("a", image=IMAGE, mask=MASK > 0, strength=0.4).shape == (1, 16, 24, 3)


def test_large_pictures_are_decoded_in_tiles_without_a_seam() -> None:
    asked: dict[str, Any] = {"size": (64, 48), "steps": 1, "output": "images"}
    whole = pipeline().generate("a", **asked)
    for tile in (6, 8, 9, 12, 100):
        np.testing.assert_allclose(pipeline().generate("a", tile=tile, **asked), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pipeline(largest=7).generate("a", **asked), whole, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="tile is 0, and the decoder takes no latent of 16 x 12"):
        pipeline(largest=7).generate("a", tile=0, **asked)
    with pytest.raises(InputError, match=r"takes no tiles of 9.*\n.*1 to 7 in steps of 1"):
        pipeline(largest=7).generate("a", tile=9, **asked)
    with pytest.raises(InputError, match="tile is -1"):
        pipeline().generate("a", tile=-1, **asked)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no text": ({"prompt": 7}, "prompt is 7"),
    "no texts": ({"prompt": []}, r"prompt is \[\]"),
    "a number among texts": ({"prompt": ["a", 7]}, "prompt holds 7"),
    "half a character": ({"prompt": "\ud800"}, "cannot be written as UTF-8"),
    "a long text": ({"prompt": "a" * 200_000}, "a prompt has 200,000 characters"),
    "negatives": ({"negative": ["a", "b"]}, "2 negative texts for 1 prompts"),
    "a negative without guidance": (
        {"negative": "a", "guidance_scale": 1},
        "negative is 'a', and there is no guidance",
    ),
    "no count": ({"count": 0}, "count is 0"),
    "too many": ({"count": 10_000_000}, "10,000,000 images are requested"),
    "a seed": ({"seed": -1}, "seed is -1"),
    "seeds": ({"seed": [1, 2]}, "2 seeds for 1 pictures"),
    "a text as seed": ({"seed": "7"}, "seed is '7'"),
    "no multiple": ({"size": (20, 16)}, "height is 20\nmust be 8 to 256, a multiple of 8"),
    "too large": ({"size": (16, 512)}, "width is 512"),
    "one side": ({"size": (16,)}, r"size is \(16,\)"),
    "steps": ({"steps": 0}, "steps is 0"),
    "eta": ({"eta": 0.5, "sampler": "euler"}, "eta is 0.5 with sampler 'euler'"),
    "guidance": ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
    "rescale": ({"guidance_rescale": 2}, "guidance_rescale is 2"),
    "output": ({"output": "film"}, "output is 'film'"),
    "a mask alone": ({"mask": MASK}, "mask without an image"),
    "strength alone": ({"strength": 0.5}, "strength without an image"),
    "strength 0": ({"image": IMAGE, "strength": 0}, "strength is 0\nmust be above 0"),
    "strength": ({"image": IMAGE, "strength": 1.1}, "strength is 1.1"),
    "no step": (
        {"image": IMAGE, "strength": 0.1, "steps": 5},
        "strength is 0.1, which is no step of 5\nuse at least 0.2",
    ),
    "gray": ({"image": IMAGE[:, :, 0]}, r"the image is uint8 \[16, 24\]"),
    "alpha": ({"image": np.zeros((16, 24, 4), np.uint8)}, r"the image is uint8 \[16, 24, 4\]\nmust be uint8"),
    "floats": ({"image": IMAGE / 255}, "the image is float64"),
    "no array": ({"image": "picture.png"}, "the image is a str"),
    "no pixels": ({"image": IMAGE[:0]}, "the image has no pixels"),
    "another size": ({"image": IMAGE, "size": (32, 24)}, "size is 32 x 24, the image has 16 x 24"),
    "odd sides": ({"image": IMAGE[:15]}, "height is 15"),
    "mask of another size": ({"image": IMAGE, "mask": MASK[:8]}, "the mask has 24 x 8 pixels, the image 24 x 16"),
    "a mask of colors": ({"image": IMAGE, "mask": IMAGE}, "the mask is uint8 .* and has colors"),
    "a transparent mask": ({"image": IMAGE, "mask": np.dstack([MASK, MASK])}, "the mask is .* and has transparency"),
    "a mask of floats": ({"image": IMAGE, "mask": MASK / 255}, "the mask is float64"),
    "an empty mask": ({"image": IMAGE, "mask": 0 * MASK}, "the mask has nothing white"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_requests_say_what_to_do(name: str) -> None:
    given, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        pipeline().generate(**{"prompt": "a", **given})


def test_requests_that_the_engines_do_not_take() -> None:
    with pytest.raises(UnknownNameError, match="unknown sampler 'magic'"):
        pipeline().generate("a", sampler="magic")
    with pytest.raises(InputError, match="an image was given, and this bundle makes pictures from text alone"):
        pipeline(roles=FROM_TEXT).generate("a", image=IMAGE)
    with pytest.raises(InputError, match="paints into a picture, and no image was given"):
        pipeline(INPAINTING).generate("a")
    with pytest.raises(InputError, match="paints into a picture, and no mask was given"):
        pipeline(INPAINTING).generate("a", image=IMAGE)


def test_engines_that_do_not_belong_together() -> None:
    with pytest.raises(ConfigError, match="a text_to_image pipeline with engines for text_encoder, unet\n"):
        pipeline(roles={role: role for role in ("text_encoder", "unet")})
    with pytest.raises(ConfigError, match="the UNet takes a picture, and the program has no 'vae_encoder'"):
        pipeline(INPAINTING, roles=FROM_TEXT)
    with pytest.raises(ConfigError, match="'sample' has shape"):
        TextToImagePipeline(program(), replace(SETTINGS, latent_channels=3), {**ROLES, "unet": "unet"})
    sessions = dict(program().sessions)
    text = sessions["text_encoder"]
    wide = replace(text.interface.outputs[0], shape=("batch", 10, 4))
    sessions["text_encoder"] = ArraySession(lambda _: {}, replace(text.interface, outputs=(wide,)))
    with pytest.raises(ConfigError, match="the text encoder gives 4 numbers for a token, the UNet takes 3"):
        TextToImagePipeline(OpenProgram(sessions), SETTINGS, ROLES)


@pytest.mark.parametrize("engine", ["unet", "vae_decoder", "vae_encoder"])
def test_an_engine_that_gives_nan_is_told_of(engine: str) -> None:
    sessions = dict(program().sessions)
    honest = sessions[engine]

    def spoiled(values: Any) -> dict[str, Array]:
        return {name: array * np.float32("nan") for name, array in honest.run(values).items()}

    sessions[engine] = ArraySession(spoiled, honest.interface)
    with pytest.raises(EngineError, match="NaN"):
        TextToImagePipeline(OpenProgram(sessions), SETTINGS, ROLES).generate("a", image=IMAGE)
