"""The user's files as calibration data: text, folders of images and arrays, and what is said of bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aigc_calibration.data import ArrayData
from aigc_calibration.errors import CalibrationError
from aigc_export.cli import run
from aigc_export.prepare import prepare as front
from aigc_export.prepare.calibration_data import calibration_data, described
from aigc_export.workloads.samples.diffusion import DiffusionData
from aigc_export.workloads.samples.image_folder import find_images
from aigc_export.workloads.samples.images import ImageData
from aigc_export.workloads.samples.text import TextData
from aigc_models.data.image_data import load_images
from aigc_models.data.images import ImageError
from aigc_models.data.text_data import standard_library_text
from aigc_models.program import Program
from aigc_runtime.pipelines.settings import DiffusionSettings

from ..conftest import make_program

LM, UNET, CROSS, GAN = (make_program(n) for n in ("lm-growing", "unet", "unet-cross", "gan"))


def make_images(root: Path, folders: Sequence[str], each: int = 2) -> Path:
    """Gray images: folder i holds images of the gray level 20 i + 5 and a black spot."""
    for i, name in enumerate(folders):
        (root / name).mkdir(parents=True)
        for k in range(each):
            pixels = np.full((9, 7), 20 * i + 5, np.uint8)
            pixels[4, 0] = 0
            Image.fromarray(pixels).save(root / name / f"{k}.png")
    return root


def labels_of(root: Path, samples: int = 256) -> dict[str, int]:
    data = calibration_data(UNET, path=root, samples=samples, seed=0)
    assert isinstance(data, ImageData)
    assert data.labels is not None
    levels = np.rint((data.images[:, 0, 4, 4] + 1) * 127.5).astype(int) // 20
    return dict(zip(map(str, levels), map(int, data.labels), strict=True))


def test_folders_named_by_numbers_are_labels(tmp_path: Path) -> None:
    assert labels_of(make_images(tmp_path / "some", ["3", "7"])) == {"0": 3, "1": 7}
    assert labels_of(make_images(tmp_path / "zeros", ["03", "10", "007"][::2])) == {"0": 3, "1": 7}
    ten = labels_of(make_images(tmp_path / "ten", [str(i) for i in range(10)]))
    assert ten == {str(i): i for i in range(10)}


def test_folders_of_other_names_are_sorted(tmp_path: Path) -> None:
    names = ["j", "a", "c", "b", "d", "e", "f", "g", "h", "i"]
    (tmp_path / "x" / ".cache").mkdir(parents=True)
    assert labels_of(make_images(tmp_path / "x", names)) == {
        str(i): sorted(names).index(n) for i, n in enumerate(names)
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([f"class-{i:02}" for i in range(12)], "holds 12 class folders, the model has 10 classes"),
        (["cat", "dog"], "holds 2 class folders, the model has 10 classes"),
        ([str(i) for i in range(1, 11)], "1, 2, 3, 4"),
        (["3", "03"], "03, 3, whose names are numbers"),
        (["3", "cat"], "holds folders named by numbers, which are labels, and others: 3, cat"),
        ([], "holds no class folders"),
    ],
)
def test_folders_that_do_not_fit_the_classes(names: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(CalibrationError, match=message) as caught:
        calibration_data(UNET, path=make_images(tmp_path / "x", names), samples=8, seed=0)
    assert "one sub-folder per class, named 0 to 9, or 10 of any other names" in caught.value.hint


def test_images_are_drawn_over_all_classes_and_seeds_differ(tmp_path: Path) -> None:
    root = make_images(tmp_path / "x", ["0", "4", "9"], each=30)
    found = find_images(root, 10)
    drawn = [found.draw(10, np.random.default_rng(s)) for s in (0, 0, 1)]
    assert drawn[0].labels is not None
    assert sorted(np.bincount(drawn[0].labels)[[0, 4, 9]]) == [3, 3, 4]
    assert len(set(drawn[0].files)) == 10
    assert drawn[0].files == drawn[1].files != drawn[2].files
    assert all(file.parent.name == str(label) for file, label in zip(drawn[0].files, drawn[0].labels, strict=True))
    assert find_images(root, None).draw(1000, np.random.default_rng(0)).labels is None


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    root = make_images(tmp_path / "x", ["0"])
    (root / "0" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(ImageError, match=r"cannot read picture .*bad\.png"):
        calibration_data(UNET, path=root, samples=8, seed=0)
    with pytest.raises(CalibrationError, match="is not a folder"):
        calibration_data(UNET, path=root / "0" / "0.png", samples=8, seed=0)
    (tmp_path / "y" / "0").mkdir(parents=True)
    with pytest.raises(CalibrationError, match="holds no images"):
        calibration_data(UNET, path=tmp_path / "y", samples=8, seed=0)
    with pytest.raises(CalibrationError, match="takes encoder_hidden_states"):
        calibration_data(CROSS, path=make_images(tmp_path / "z", ["a"]), samples=8, seed=0)


def named(*names: str) -> Program:
    assert isinstance(UNET.settings, DiffusionSettings)
    return replace(
        UNET, settings=replace(UNET.settings, num_classes=len(names), null_class=len(names), class_names=names)
    )


def image_data(program: Program, root: Path, samples: int) -> ImageData:
    data = calibration_data(program, path=root, samples=samples, seed=0)
    assert isinstance(data, ImageData)
    return data


def labels_and_levels(program: Program, root: Path) -> dict[int, int]:
    """label -> number of the folder that its images lie in."""
    data = image_data(program, root, samples=256)
    levels = np.rint((data.images[:, 0, 4, 4] + 1) * 127.5).astype(int) // 20
    assert data.labels is not None
    return dict(zip(map(int, data.labels), map(int, levels), strict=True))


def test_folders_are_labels_by_the_names_of_the_models_classes(tmp_path: Path) -> None:
    make_images(tmp_path / "x", ["1", "2"])
    # Trained on these very folders, class "1" has the label 0: its images must not become those of label 1.
    assert labels_and_levels(named("1", "2"), tmp_path / "x") == {0: 0, 1: 1}
    assert labels_and_levels(named("bee", "ant", "cat"), make_images(tmp_path / "y", ["ant", "bee"])) == {1: 0, 0: 1}
    assert labels_and_levels(named("bee", "ant", "cat"), make_images(tmp_path / "z", ["2", "0"])) == {2: 0, 0: 1}
    with pytest.raises(CalibrationError, match="the folder 'dog', which is no class") as caught:
        calibration_data(named("bee", "ant"), path=make_images(tmp_path / "w", ["ant", "dog"]), samples=8, seed=0)
    assert "0 bee, 1 ant" in caught.value.hint


def test_images_beside_class_folders_or_of_one_class(tmp_path: Path) -> None:
    root = make_images(tmp_path / "x", ["0", "1"])
    (root / "0" / "0.png").rename(root / "lost.png")
    with pytest.raises(CalibrationError, match=r"holds 1 images beside its class folders, such as 'lost\.png'"):
        calibration_data(UNET, path=root, samples=8, seed=0)
    flat = make_images(tmp_path / "y", ["."])
    labels = image_data(named("y"), flat, samples=8).labels
    assert labels is not None
    assert set(labels) == {0}


def test_images_become_the_numbers_that_training_saw(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        (tmp_path / "a").mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (13, 21, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{i}.png")
    trained = load_images(tmp_path, size=8, channels=1)
    data = image_data(named("a"), tmp_path, samples=64)
    seen = {image.tobytes() for image in (*trained.train.numpy(), *trained.held_out.numpy())}
    assert {image.tobytes() for image in data.images} == seen
    assert described(data).startswith("64 samples of 12 pictures, 21x13 RGB; cut to the middle, resized to 8x8 by area")
    assert "turned to gray" in described(data)


# Text


def test_text_must_be_text(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    rng = np.random.default_rng(0)
    path.write_bytes(rng.integers(0, 256, 10_000, dtype=np.uint8).tobytes())
    with pytest.raises(CalibrationError, match=r"x\.txt' is not UTF-8: byte 0x[89a-f]. at \d") as caught:
        calibration_data(LM, path=path, samples=8, seed=0)
    assert "expected UTF-8 text" in caught.value.hint
    path.write_bytes(rng.integers(0, 128, 10_000, dtype=np.uint8).tobytes())
    with pytest.raises(CalibrationError, match=r"is binary: 2,\d\d\d of 10,000 characters are control characters"):
        calibration_data(LM, path=path, samples=8, seed=0)
    path.write_text("Grüße an Zoë, ganz ohne\tKummer.\r\n\x1b[0m" + "Guten Tag auch.\n" * 500, encoding="utf-8")
    assert isinstance(calibration_data(LM, path=path, samples=8, seed=0), TextData)


def test_files_that_are_no_text_by_their_names_are_no_text(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((100, 6)))
    with pytest.raises(CalibrationError, match=r"x\.npy' is (not UTF-8|binary)"):
        calibration_data(LM, path=tmp_path / "x.npy", samples=8, seed=0)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "good.txt").write_text("Guten Tag auch.\n" * 500)
    (tmp_path / "folder" / "old.txt").write_bytes("Grüße\n".encode("latin-1"))
    with pytest.raises(CalibrationError, match=r"folder/old\.txt' is not UTF-8: byte 0xfc at 2"):
        calibration_data(LM, path=tmp_path / "folder", samples=8, seed=0)


def test_the_default_text_passes_for_text() -> None:
    data = calibration_data(LM, path=None, samples=8, seed=0)
    assert isinstance(data, TextData)
    assert len(data.tokens) == len(standard_library_text().train)


# Arrays


def test_a_line_tells_how_many_rows_were_drawn(tmp_path: Path) -> None:
    z = np.random.default_rng(0).standard_normal((1000, 6)).astype(np.float32)
    np.savez(tmp_path / "x.npz", latents=z, class_labels=np.arange(1000) // 100)
    data = [calibration_data(GAN, path=tmp_path / "x.npz", samples=n, seed=0) for n in (256, 1000, 5000)]
    assert all(isinstance(d, ArrayData) for d in data)
    assert [described(d) for d in data] == ["256 of 1000 rows", "1000 samples", "1000 samples"]
    assert described(calibration_data(GAN, path=None, samples=9, seed=0)) == "9 samples"


def test_prompts_of_a_file(tmp_path: Path) -> None:
    prompts = np.random.default_rng(0).standard_normal((40, 7, 12)).astype(np.float32)
    np.savez(tmp_path / "x.npz", encoder_hidden_states=prompts, null_encoder_hidden_states=prompts[:1])
    data = calibration_data(CROSS, path=tmp_path / "x.npz", samples=16, seed=0)
    assert isinstance(data, DiffusionData)
    assert data.context is not None
    assert data.context.shape == (16, 7, 12)
    assert data.null_context is not None
    for bad in (prompts[:0], prompts[0, 0, 0], prompts * np.nan, prompts[:, :, :3], prompts.astype(int)):
        np.savez(tmp_path / "y.npz", encoder_hidden_states=bad)
        with pytest.raises(CalibrationError) as caught:
            calibration_data(CROSS, path=tmp_path / "y.npz", samples=16, seed=0)
        assert "encoder_hidden_states float32 [batch, tokens, 12]" in caught.value.hint
    np.savez(tmp_path / "z.npz", encoder_hidden_states=prompts)
    with pytest.raises(CalibrationError, match="takes no encoder_hidden_states") as caught:
        calibration_data(UNET, path=tmp_path / "z.npz", samples=16, seed=0)
    assert "sample float32 [batch, 1, 8, 8]" in caught.value.hint
    with pytest.raises(CalibrationError, match="takes encoder_hidden_states"):
        calibration_data(CROSS, path=None, samples=16, seed=0)


# The command line


def test_bad_data_is_refused_before_work_starts(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(front, "capture", lambda *_, **__: pytest.fail("the work has started"))
    latents = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    np.savez(tmp_path / "scalar.npz", latents=np.float32(1), class_labels=np.int64(0))
    np.savez(tmp_path / "loud.npz", latents=latents * np.float32(1e35), class_labels=np.arange(8))
    np.savez(tmp_path / "context.npz", encoder_hidden_states=np.ones((4, 3, 12), np.float32))
    np.savez(tmp_path / "zeros.npz", input_ids=np.zeros((4, 9), np.int64), pad_length=np.zeros(4, np.int64))
    make_images(tmp_path / "twelve", [f"c{i:02}" for i in range(12)])
    bad = {"scalar.npz": "gan", "loud.npz": "gan", "context.npz": "unet", "zeros.npz": "lm", "twelve": "unet"}
    for data, model in bad.items():
        given = ["calibrate", model, "--precision", "fp8", "--checkpoint", str(checkpoints / model)]
        given += ["-o", str(tmp_path / "c")]
        assert run([*given, "--calibration-data", str(tmp_path / data)]) == 2, data
        error = capsys.readouterr().err
        assert "expected" in error, data
        assert "Traceback" not in error
    assert not (tmp_path / "c").exists()


def test_a_folder_without_text(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no text files"):
        calibration_data(LM, path=tmp_path, samples=8, seed=0)
