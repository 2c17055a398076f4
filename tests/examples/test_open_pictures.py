"""The example that makes folders of open pictures, over a small list, Pillow's own font and idx files written here."""

from __future__ import annotations

import gzip
import importlib.util
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageFont

from aigc_models.data.image_data import load_images

EXAMPLE = Path(__file__).parents[2] / "examples" / "open_pictures.py"
LIST = """# emoji-test.txt
#       fully-qualified     — a fully-qualified emoji
# group: Smileys & Emotion
# subgroup: face-smiling
0041                                       ; fully-qualified     # A E1.0 letter
0042 FE0F                                  ; fully-qualified     # B E0.6 letter
0042                                       ; unqualified         # B E0.6 letter
# group: People & Body
0043 0044                                  ; fully-qualified     # CD E0.6 hand
0045 1F3FB                                 ; fully-qualified     # E E1.0 hand: light skin tone
# group: Component
1F3FB                                      ; component           # E1.0 light skin tone
"""


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("open_pictures", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "list.txt").write_text(LIST, encoding="utf-8")
    monkeypatch.setattr(module, "LIST", tmp_path / "list.txt")
    monkeypatch.setattr(module, "FASHION", tmp_path)
    font = ImageFont.load_default(module.FONT_SIZE)
    monkeypatch.setattr(module.ImageFont, "truetype", lambda _path, _size: font)
    return module


def test_the_list_gives_a_group_and_characters(example: ModuleType) -> None:
    found = list(example.emoji_list(LIST))
    assert found == [("smileys-emotion", "A"), ("smileys-emotion", "B\ufe0f"), ("people-body", "CD")]
    assert list(example.emoji_list(LIST, skin_tones=True))[-1] == ("people-body", "E\U0001f3fb")


def test_emoji_are_drawn_on_white_into_a_folder_for_each_group(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example.main(["emoji", str(tmp_path / "out"), "--groups", "smileys-emotion", "--size", "16"])
    assert "2 pictures in" in capsys.readouterr().out
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert files == ["smileys-emotion/41.png", "smileys-emotion/42-fe0f.png"]
    with Image.open(tmp_path / "out" / files[0]) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (16, 16, 3)
    assert (pixels[0, 0] == 255).all()
    assert pixels.min() < 100  # the letter


def test_what_the_font_has_no_single_picture_of_is_left_out(example: ModuleType) -> None:
    font = example.ImageFont.truetype(example.FONT, example.FONT_SIZE)
    assert example.draw_emoji("A", font, 16) is not None
    assert example.draw_emoji("AAAA", font, 16) is None


def write_idx(path: Path, values: np.ndarray, kind: int = 8) -> None:
    head = bytes([0, 0, kind, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    buffer = BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as file:
        file.write(head + values.tobytes())
    path.write_bytes(buffer.getvalue())


def test_fashion_is_padded_and_can_be_trained_on(example: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(40, dtype=np.uint8) % 10)
    example.main(["fashion", str(tmp_path / "out"), "--limit", "3"])
    with Image.open(tmp_path / "out" / "t-shirt" / "00010.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.pad(images[10], 2))
    data = load_images(tmp_path / "out")
    assert data.train.shape[1:] == (1, 32, 32)
    assert (len(data.train), sorted(data.class_names)) == (30, sorted(example.FASHION_NAMES))


@pytest.mark.parametrize("damage", ["type", "cut", "count", "gzip"])
def test_a_damaged_file_is_said(
    example: ModuleType, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    write_idx(path, np.zeros((2, 3, 3), dtype=np.uint8), kind=13 if damage == "type" else 8)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    if damage == "count":
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    if damage == "gzip":
        path.write_bytes(b"no gzip")
    with pytest.raises(SystemExit, match="2"):
        example.main(["fashion", str(tmp_path / "out")])
    assert "apt-get install" in capsys.readouterr().err


def test_what_is_not_there_or_there_already_is_said(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["emoji", str(tmp_path / "out"), "--groups", "smileys"], "no group of emoji is called smileys; there are"),
        (["fashion", str(tmp_path / "out")], "No such file or directory"),
        (["emoji", str(tmp_path)], "is there already"),
    ):
        with pytest.raises(SystemExit, match="2"):
            example.main(arguments)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
