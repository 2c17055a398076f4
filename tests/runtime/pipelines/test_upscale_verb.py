"""`aigc-run generate --image`: what is read and written, and what is refused before the engine is loaded."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.errors import EngineError, InputError
from aigc_runtime.io.npy import write_npy
from aigc_runtime.pipelines import KINDS
from aigc_runtime.pipelines.upscale import UpscalePipeline

from .upscale_toys import session, settings

Image: Any = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (31, 17, 4), np.uint8)


def pipeline() -> UpscalePipeline:
    return UpscalePipeline(session(), settings())


def arguments(folder: Path, **given: Any) -> Namespace:
    image, output = str(folder / "in.png"), str(folder / "out.png")
    return Namespace(**({"image": image, "output": output, "overlap": None, "json": False} | given))


def prepare(asked: Namespace) -> Any:
    return KINDS["upscale"].verb().prepare(asked, pipeline())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_picture_is_enlarged(channels: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = COLORS[..., :channels] if channels != 1 else COLORS[..., 0]
    Image.fromarray(pixels).save(tmp_path / "in.png")
    job = prepare(arguments(tmp_path))
    job.run(pipeline())
    job.report()
    assert f"wrote {tmp_path / 'out.png'}: 51 x 93 pixels of 17 x 31" in capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as read:
        np.testing.assert_array_equal(np.asarray(read), pipeline().generate(pixels))


def test_a_photo_is_turned_and_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(COLORS[..., :3]).save(tmp_path / "in.png", exif=exif)
    job = prepare(arguments(tmp_path, json=True, overlap=3))
    job.run(pipeline())
    job.report()
    told = json.loads(capsys.readouterr().out)
    assert (told["schema"], told["width"], told["height"]) == ("aigc-run-generate-upscale/1", 93, 51)
    assert (told["channels"], told["notes"]) == (3, ["turned as the EXIF orientation says"])


def test_an_array_needs_no_pillow(tmp_path: Path) -> None:
    (tmp_path / "in.npy").write_bytes(write_npy(COLORS))
    job = prepare(arguments(tmp_path, image=str(tmp_path / "in.npy")))
    job.run(pipeline())
    with Image.open(tmp_path / "out.png") as read:
        np.testing.assert_array_equal(np.asarray(read), pipeline().generate(COLORS))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": None}, "no picture was given"),
        ({"output": None}, "a picture needs a file"),
        ({"output": "x.jpg"}, "cannot write a picture to 'x.jpg'"),
        ({"overlap": 6}, "overlap is 6"),
        ({"image": "none.png"}, "no such file: 'none.png'"),
        ({"image": "bad.npy"}, "'bad.npy' is not a .npy file"),
        ({"image": "odd.npy"}, r"the image is uint8 \[2, 2, 7\]"),
    ],
)
def test_what_is_refused_before_any_work(
    given: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(COLORS).save(tmp_path / "in.png")
    Path("bad.npy").write_bytes(b"x" * 100)
    Path("odd.npy").write_bytes(write_npy(np.zeros((2, 2, 7), np.uint8)))
    with pytest.raises(InputError, match=message):
        prepare(arguments(tmp_path, **given))


def test_a_failure_leaves_no_half_picture(tmp_path: Path) -> None:
    Image.fromarray(COLORS).save(tmp_path / "in.png")
    job = prepare(arguments(tmp_path))
    broken = pipeline()
    broken.close()
    with pytest.raises(EngineError):
        job.run(broken)
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]
