"""`aigc-run generate --prompt` of a model from text to pictures: what is read, written and refused."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.errors import InputError
from aigc_runtime.io.npy import write_npy
from aigc_runtime.pipelines import KINDS
from aigc_runtime.pipelines.text_to_image_verb import REQUEST_KEYWORD

from ..io.picture_files import bomb, cmyk, cut, film, saved
from .picture_toys import pipeline, xl_pipeline

Image: Any = pytest.importorskip("PIL.Image")
jsonschema: Any = pytest.importorskip("jsonschema")
SCHEMA = Path(__file__).parents[3] / "docs" / "schemas" / "aigc-run-generate-pictures-1.json"
VERB = KINDS["text_to_image"].verb()
PICTURE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def arguments(folder: Path, **given: Any) -> Namespace:
    nothing = {option.name: None for option in VERB.options}
    return Namespace(**{**nothing, "prompt": "ä dusk", "output": str(folder / "out.png"), "json": False, **given})


def run(asked: Namespace) -> Any:
    job: Any = VERB.prepare(asked, pipeline())
    job.run(pipeline())
    job.report()
    return job


def test_the_request_stands_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(arguments(tmp_path, negative="blur", seed=7, steps=2, size="32x16"))
    assert capsys.readouterr().out == f"wrote {tmp_path / 'out.png'}: 1 picture, 16 x 32 pixels, seed 7\n"
    with Image.open(tmp_path / "out.png") as read:
        request = json.loads(read.text[REQUEST_KEYWORD])
        found = np.asarray(read)
    assert (request["prompt"], request["negative"], request["seeds"]) == ("ä dusk", "blur", [7])
    assert (request["size"], request["steps"], request["sampler"]) == ([32, 16], 2, "ddim")
    expected = pipeline().generate("ä dusk", negative="blur", seed=7, steps=2, size=(32, 16))
    np.testing.assert_array_equal(found, expected[0])


def test_several_pictures_lie_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(arguments(tmp_path, count=3, steps=1, seed=2, json=True, prompt="0123456789ab"))
    told = json.loads(capsys.readouterr().out)
    jsonschema.validate(told, json.loads(SCHEMA.read_text()), cls=jsonschema.Draft202012Validator)
    assert (told["pictures"], told["request"]["seeds"]) == (3, [2, 3, 4])
    assert told["notes"] == ["a prompt has more than 10 tokens, not seen: 'ab'"]
    with Image.open(tmp_path / "out.png") as read:
        found = np.asarray(read)
    assert found.shape == (2 * 16 + 6, 2 * 24 + 6, 3)
    expected = pipeline().generate("0123456789ab", count=3, steps=1, seed=2)
    np.testing.assert_array_equal(found[2:18, 28:52], expected[1])
    run(arguments(tmp_path, count=3, steps=1, seed=2, prompt="0123456789ab", output=str(tmp_path / "out.npy")))
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


def test_a_picture_and_a_mask_come_from_files(tmp_path: Path) -> None:
    mask = np.zeros((16, 24), dtype=np.uint8)
    mask[:8] = 255
    Image.fromarray(PICTURE).save(tmp_path / "in.png")
    (tmp_path / "mask.npy").write_bytes(write_npy(mask))
    files = {"image": str(tmp_path / "in.png"), "mask": str(tmp_path / "mask.npy")}
    run(arguments(tmp_path, steps=4, strength=0.5, **files))
    with Image.open(tmp_path / "out.png") as read:
        found, request = np.asarray(read), json.loads(read.text[REQUEST_KEYWORD])
    assert (request["strength"], request["masked"], request["steps"]) == (0.5, True, 4)
    np.testing.assert_array_equal(
        found, pipeline().generate("ä dusk", image=PICTURE, mask=mask, steps=4, strength=0.5)[0]
    )


@pytest.mark.parametrize("name", ["out.jpg", "OUT.JPEG"])
def test_a_jpeg_holds_the_request_in_its_comment(tmp_path: Path, name: str) -> None:
    run(arguments(tmp_path, steps=1, seed=3, output=str(tmp_path / name)))
    with Image.open(tmp_path / name) as read:
        found, comment = np.asarray(read).astype(np.float64), json.loads(read.info["comment"])
        assert read.format == "JPEG"
    assert (comment[REQUEST_KEYWORD]["prompt"], comment[REQUEST_KEYWORD]["seeds"]) == ("ä dusk", [3])
    expected = pipeline().generate("ä dusk", steps=1, seed=3)[0].astype(np.float64)
    assert np.abs(found - expected).mean() < 8


def test_a_second_prompt_stands_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts: dict[str, Any] = {"prompt_2": "b", "negative": "n", "negative_2": "m"}
    job: Any = VERB.prepare(arguments(tmp_path, steps=1, json=True, **texts), xl_pipeline())
    job.run(xl_pipeline())
    job.report()
    told = json.loads(capsys.readouterr().out)
    jsonschema.validate(told, json.loads(SCHEMA.read_text()), cls=jsonschema.Draft202012Validator)
    assert {name: told["request"][name] for name in ("prompt", *texts)} == {"prompt": "ä dusk", **texts}
    with Image.open(tmp_path / "out.png") as read:
        found = np.asarray(read)
    np.testing.assert_array_equal(found, xl_pipeline().generate("ä dusk", steps=1, **texts)[0])
    with pytest.raises(InputError, match="prompt_2 is 'b', and this model has one text encoder"):
        VERB.prepare(arguments(tmp_path, prompt_2="b"), pipeline())


def test_sizes_that_a_model_sees(tmp_path: Path) -> None:
    asked = arguments(tmp_path, steps=1, original_size="32x48", crop="2x4")
    job: Any = VERB.prepare(asked, xl_pipeline())
    job.run(xl_pipeline())
    with Image.open(tmp_path / "out.png") as read:
        request = json.loads(read.text[REQUEST_KEYWORD])
    assert (request["original_size"], request["crop"], request["target_size"]) == ([32, 48], [2, 4], [16, 24])
    assert request["negative"] is None
    with pytest.raises(InputError, match="--crop is '2'"):
        VERB.prepare(arguments(tmp_path, crop="2"), xl_pipeline())


def transposed(folder: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(np.rot90(PICTURE)).save(folder / "turned.png", exif=exif)
    return folder / "turned.png"


def test_a_picture_is_turned_as_its_tag_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(arguments(tmp_path, steps=2, image=str(transposed(tmp_path))))
    assert "16 pixels, seed 0; turned as the EXIF orientation says" in capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as read:
        np.testing.assert_array_equal(np.asarray(read), pipeline().generate("ä dusk", steps=2, image=PICTURE)[0])


def picture_of(pixels: np.ndarray) -> Callable[[Path], Path]:
    return lambda folder: saved(folder, pixels, "in.png")


GRAY, SEEN = PICTURE[..., 0], "must be uint8 [H, W, 3]: save it as 8 bits of RGB without alpha"
PICTURES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "gray": (picture_of(GRAY), "the image is uint8", SEEN),
    "alpha": (picture_of(np.dstack([PICTURE, GRAY])), "the image is uint8", SEEN),
    "16 bits": (picture_of(GRAY.astype(np.uint16) * 257), "holds 16 bits of gray", "save it with 8 bits"),
    "CMYK": (cmyk, "CMYK", "save it as 8 bits of gray or sRGB"),
    "a film": (film, "holds 2 frames or pages", "save the one you mean"),
    "a bomb": (bomb, "more than 89,478,485 pixels", "make it smaller"),
    "a cut file": (cut, "cannot read picture", "remove it, or save it again"),
}


@pytest.mark.parametrize(
    ("option", "name"),
    [("image", name) for name in PICTURES] + [("mask", name) for name in PICTURES if name != "gray"],
)
def test_pictures_that_are_refused(option: str, name: str, tmp_path: Path) -> None:
    make, message, hint = PICTURES[name]
    files = {"image": str(saved(tmp_path, PICTURE, "good.png")), option: str(make(tmp_path))}
    with pytest.raises(InputError, match=message.replace("the image", f"the {option}")) as caught:
        VERB.prepare(arguments(tmp_path, **files), pipeline())
    wanted = "save it as 8 bits of gray" if option == "mask" and hint == SEEN else hint
    assert caught.value.hint.startswith(wanted)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": None}, "no prompt was given"),
        ({"output": None}, "pictures need a file"),
        ({"output": "x.gif"}, "cannot write pictures to 'x.gif'"),
        ({"output": "x.jpg", "prompt": "a" * 70_000}, "the request has 70,.* bytes"),
        ({"size": "16"}, "--size is '16'"),
        ({"size": "20x16"}, "height is 20"),
        ({"image": "none.png"}, "no such file: 'none.png'"),
        ({"strength": 0.5}, "strength without an image"),
        ({"count": 0}, "count is 0"),
        ({"count": 60_000, "size": "256x256"}, "ask for fewer pictures"),
    ],
)
def test_bad_requests_are_refused_before_the_engine_is_loaded(
    given: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        VERB.prepare(arguments(tmp_path, **given), pipeline())
    assert list(tmp_path.iterdir()) == []
