from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from aigc_models.data.image_data import digits
from aigc_models.evaluation.known_pictures import KNOWN_PICTURES, REAL_FEATURES
from aigc_models.evaluation.metrics import class_accuracy
from aigc_models.families.classifier import Classifier, ClassifierConfig
from aigc_models.families.stylegan2.config import StyleGAN2Config
from aigc_models.families.unet_config import UNetConfig
from aigc_models.sources.shipped import ENTRIES, MODELS, load_shipped
from aigc_models.torch_session import TorchSession
from aigc_models.training import estimate, families, recipes
from aigc_models.training.every import Every
from aigc_models.training.families import FAMILIES, train_family
from aigc_models.training.options import TrainOptions
from aigc_models.training.stylegan2_task import StyleGAN2Task
from aigc_models.training.tasks import GanTask, LMTask
from aigc_models.weights.checkpoint import load_checkpoint, shipped_checkpoint
from aigc_models.weights.load_into import load_into
from aigc_runtime.errors import CheckpointError, InputError, UnknownNameError
from aigc_runtime.io.png import image_grid
from aigc_runtime.pipelines import make_pipeline
from aigc_runtime.pipelines.diffusion import DiffusionPipeline
from aigc_runtime.pipelines.gan import GanPipeline
from aigc_runtime.pipelines.settings import DiffusionSettings, GanSettings

from ..data.picture_files import GRAY, RGB, png, write

SHIPPED = ("classifier", "gan", "lm", "unet")
"""Shipped checkpoints by their recipes' defaults, and called as these."""
MAX_BYTES = 14_000_000
REPEATED_SUM = 1e-4  # float32 sums in another order, on another processor
FLOORS = {"classifier": ("held_out_accuracy", 0.97), "gan": ("class_accuracy", 0.9), "unet": ("class_accuracy", 0.9)}


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "SAMPLES", 12)


@pytest.mark.usefixtures("few_samples")
@pytest.mark.parametrize(
    ("name", "metrics", "samples"),
    [
        pytest.param("lm", {"bits_per_byte"}, 12, marks=pytest.mark.slow),
        pytest.param("unet", {"class_accuracy", "frechet_distance"}, 12, marks=pytest.mark.slow),
        pytest.param("gan", {"class_accuracy", "frechet_distance"}, 12, marks=pytest.mark.slow),
        ("stylegan2", {"class_accuracy", "frechet_distance"}, 12),
        ("classifier", {"held_out_accuracy"}, 359),
    ],
)
def test_a_short_run_leaves_a_checkpoint_with_its_quality(
    tmp_path: Path, name: str, metrics: set[str], samples: int
) -> None:
    calls: list[int] = []
    report = train_family(name, output=tmp_path / "out", steps=2, seed=1, on_step=lambda s, n, _: calls.append(s))
    assert calls == [1, 2]
    assert report["quality"].keys() == metrics
    assert report["samples"] == samples
    assert (report["training"]["steps"], report["training"]["seed"]) == (2, 1)
    assert json.loads((tmp_path / "out" / "quality.json").read_text()) == report
    files = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert files == ["config.json", "curve.csv", "curve.png", "model.safetensors", "quality.json"]
    if name in ENTRIES:
        load_shipped(name, checkpoint=tmp_path / "out")


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_family("classifier", output=tmp_path / folder, steps=2, seed=seed)
    a, b, c = (load_checkpoint(tmp_path / n).sha256 for n in "abc")
    assert a == b
    assert a != c


def make_pictures(root: Path, *classes: str, size: int = 8, colored: bool = True, each: int = 6) -> Path:
    """Random pictures, written by hand."""
    rng = np.random.default_rng(0)
    channels = 3 if colored else 1
    for name in classes:
        for i in range(each):
            rows = [rng.integers(0, 256, channels * size, dtype=np.uint8).tobytes() for _ in range(size)]
            write(root / name / f"{i}.png", png((size, size), rows, color=RGB if colored else GRAY))
    return root


def picture_settings(name: str, checkpoint: Path) -> DiffusionSettings | GanSettings:
    settings = load_shipped(name, checkpoint=checkpoint).settings
    assert isinstance(settings, DiffusionSettings | GanSettings)
    return settings


@pytest.mark.parametrize("name", ["unet", "gan", "stylegan2", "classifier"])
def test_colored_pictures_train_a_colored_model_of_their_own_size(tmp_path: Path, name: str) -> None:
    data = make_pictures(tmp_path / "data", "cat", "dog")
    told: list[str] = []
    report = train_family(name, output=tmp_path / "out", data=data, steps=1, batch_size=2, notify=told.append)
    assert told[:3] == ["12 pictures, 8x8 RGB", "2 classes: cat (6), dog (6)", "2 of them held out"]
    assert told[3].startswith("1 steps of 2 rows, ")
    assert report["training"]["notes"] == told[:3]
    assert (report["training"]["data"], report["training"]["batch_size"]) == ("data", 2)
    config = load_checkpoint(tmp_path / "out").config
    assert config["class_names"] == ["cat", "dog"]
    sizes = {k: config["model"].get(k) for k in ("image_size", "sample_size", "image_channels", "in_channels")}
    if name != "stylegan2":  # whose size is that of its channels
        assert sorted(v for v in sizes.values() if v is not None) == [3, 8]
    if name == "classifier":
        return
    assert report["quality"] == {}
    assert report["samples"] == 0
    settings = picture_settings(name, tmp_path / "out")
    assert (settings.sample_shape, settings.num_classes, settings.class_names) == ((3, 8, 8), 2, ("cat", "dog"))


@pytest.mark.parametrize(("name", "classes"), [("unet", "."), ("stylegan2", "."), ("gan", "."), ("gan", "cat")])
def test_one_class_with_and_without_a_sub_folder(tmp_path: Path, name: str, classes: str) -> None:
    data = make_pictures(tmp_path / "photos", classes, each=10)
    train_family(name, output=tmp_path / "out", data=data, steps=1, batch_size=2)
    settings = picture_settings(name, tmp_path / "out")
    if isinstance(settings, DiffusionSettings):  # unconditional
        assert (settings.num_classes, settings.null_class, settings.class_names) == (None, None, None)
    elif name == "stylegan2":
        assert (settings.num_classes, settings.class_names) == (None, None)
    else:
        assert (settings.num_classes, settings.class_names) == (1, ("photos" if classes == "." else "cat",))


def test_a_classifier_needs_classes_and_pictures_held_out(tmp_path: Path) -> None:
    for classes, each in (((".",), 10), (("cat", "dog", "fox"), 4)):
        data = make_pictures(tmp_path / str(each), *classes, each=each)
        with pytest.raises(InputError, match=r"the data have \d classes and \d pictures held out\nneed two classes"):
            train_family("classifier", output=tmp_path / "out", data=data)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_size_and_channels_on_request(tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data", "cat", "dog", size=20)
    told: list[str] = []
    train_family(
        "unet", output=tmp_path / "a", data=data, steps=1, batch_size=2, size=8, channels=1, notify=told.append
    )
    assert told[0] == "12 pictures, 20x20 RGB; resized to 8x8 by area, turned to gray (0.299 R + 0.587 G + 0.114 B)"
    assert picture_settings("unet", tmp_path / "a").sample_shape == (1, 8, 8)
    train_family("gan", output=tmp_path / "b", steps=1, batch_size=2, size=8, channels=3, notify=told.append)
    assert "1,797 built-in digits, 8x8 gray; enlarged to 8x8 (linear), repeated as red, green and blue" in told
    assert picture_settings("gan", tmp_path / "b").sample_shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("name", "size", "nearest"),
    [
        ("gan", 20, "--size 16 or --size 32"),
        ("unet", 50, "--size 48 or --size 52"),
        ("unet", 25, "--size 24 or --size 26"),
        ("classifier", 18, "--size 16 or --size 20"),
        ("gan", 4, "--size 8"),
        ("stylegan2", 24, "--size 16 or --size 32"),
    ],
)
def test_sizes_that_a_model_cannot_have(tmp_path: Path, name: str, size: int, nearest: str) -> None:
    calls: list[int] = []
    data = make_pictures(tmp_path / "data", "cat", "dog", size=size, each=5)
    for given in (None, size):
        with pytest.raises(InputError, match=f"size is {size}, which the .* cannot have\nthe nearest .*: {nearest}$"):
            train_family(name, output=tmp_path / "out", data=data, on_step=lambda s, *_: calls.append(s), size=given)
    assert calls == []
    assert not (tmp_path / "out").exists()


def test_a_training_beyond_the_memory_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "available_memory", lambda: 2**28)
    with pytest.raises(InputError, match=r"a step of 4096 rows needs about .* GiB of memory, and 256 MiB are free"):
        train_family("unet", output=tmp_path / "out", steps=1, batch_size=4096)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("gan", 8),
        ("stylegan2", 4),
        ("classifier", 16),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("unet", 8), ("lm", 2))),
    ],
)
def test_the_cost_of_a_step_is_counted_right(name: str, rows: int) -> None:
    prepared = FAMILIES[name](None, TrainOptions(batch_size=rows), 2)
    cost = estimate.step_cost(prepared.task, rows)
    # A forward pass costs twice its multiplications, and a backward pass twice a forward pass; a GAN's step has the
    # discriminator run on 3 batches and the generator on one.
    with FlopCounterMode(display=False) as counter:
        task = prepared.task
        images = torch.zeros(rows, 1, 16, 16)
        labels = torch.zeros(rows, dtype=torch.int64)
        if isinstance(task, LMTask):
            task.model(torch.zeros(rows, task.window, dtype=torch.int64))
        elif name == "unet":
            task.model(images, torch.zeros(rows), labels)
        elif name == "classifier":
            task.model(images)
        else:
            assert isinstance(task, GanTask | StyleGAN2Task)
            task.generator(torch.zeros(rows, 64), labels)
            for _ in range(3):
                task.discriminator(images, labels)
    # Attention's kernel for the CPU is not counted in the forward pass.
    assert cost.flops == pytest.approx(3 * counter.get_total_flops(), rel=0.25 if name == "lm" else 0.1)
    assert cost.memory_bytes > 5 * sum(p.numel() * 4 for p in task.model.parameters())
    assert estimate.step_cost(task, 2 * rows).memory_bytes > cost.memory_bytes


@pytest.mark.slow
def test_samples_are_drawn_by_the_runtimes_own_pipeline(tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data", "cat", "dog")
    for name in ("unet", "gan"):
        train_family(name, output=tmp_path / name, data=data, steps=2, batch_size=2, sample_every=Every(steps=1))
        samples = sorted((tmp_path / name).glob("samples-*.png"))
        assert [path.name for path in samples] == ["samples-0000001.png", "samples-0000002.png"]
        # The last one is what the runtime's pipeline draws over the checkpoint that was written.
        program = load_shipped(name, checkpoint=tmp_path / name)
        pipeline = make_pipeline(TorchSession(program.part), program.settings)
        assert isinstance(pipeline, DiffusionPipeline | GanPipeline)
        images = pipeline.generate([0, 1] * 4, seed=0)
        grid = image_grid(images, columns=2, scale=8)
        with Image.open(samples[-1]) as drawn:
            assert drawn.size == (grid.shape[1], grid.shape[0])
            if name == "unet":  # the GAN's statistics are measured on more batches at the end
                np.testing.assert_array_equal(np.asarray(drawn), grid)


@pytest.mark.slow
@pytest.mark.usefixtures("few_samples")
def test_the_users_own_text(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(b"abc " * 4000)
    every = Every(steps=1)
    report = train_family("lm", output=tmp_path / "out", data=tmp_path / "mine.txt", steps=1, sample_every=every)
    assert (tmp_path / "out" / "samples-0000001.txt").read_text().startswith("abc abc abc ")
    assert 0 < report["quality"]["bits_per_byte"] < 10


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": "unett"}, UnknownNameError, "unknown model to train 'unett'(.|\n)*'unet'"),
        ({"steps": 0}, InputError, "steps is 0\nmust be from 1 to 1,000,000,000"),
        ({"seed": -1}, InputError, "seed is -1\nmust be from 0"),
        ({"data": "/nowhere/at/all"}, InputError, "no such file or folder: '/nowhere/at/all'"),
        ({"resume": True}, CheckpointError, "nothing to resume in"),
        ({"steps": True}, InputError, "steps is True"),
        ({"batch_size": 0}, InputError, "batch_size is 0\nmust be from 1 to 65,536"),
        ({"batch_size": 10**9}, InputError, "batch_size is 1000000000"),
        ({"learning_rate": 0.0}, InputError, "learning_rate is 0.0\nmust be above 0"),
        ({"learning_rate": math.nan}, InputError, "learning_rate is nan"),
        ({"learning_rate": 3.0}, InputError, "learning_rate is 3.0"),
        ({"size": 0}, InputError, "size is 0\nmust be from 1 to 1,024"),
        ({"size": 10**6}, InputError, "size is 1000000"),
        ({"channels": 4}, InputError, r"channels is 4\nmust be 1 \(gray\) or 3"),
        ({"background": "white"}, InputError, "background is 'white'\nthe built-in digits have none"),
        ({"device": "gpu"}, InputError, "device is 'gpu'\nvalid: cpu"),
        ({"device": "cuda:99"}, InputError, "device is 'cuda:99'"),
        ({"sample_every": Every(steps=2)}, InputError, "sample_every is 2 steps\na classifier draws nothing"),
        ({"width": 0}, InputError, "width is 0\nmust be from 1 to 1,024"),
        (
            {"name": "unet", "width": 20},
            InputError,
            "width is 20, which the UNet cannot have\na multiple of 8: --width",
        ),
        ({"name": "lm", "width": 16}, InputError, "width is 16\nmeans nothing to the recipe lm"),
        ({"name": "lm", "size": 32}, InputError, "size is 32\nmeans nothing to a language model"),
    ],
)
def test_what_cannot_be_trained(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train_family(**{"name": "classifier", "output": tmp_path / "out", "steps": 1, **options})
    assert list(tmp_path.iterdir()) == []


def test_a_width_on_request(tmp_path: Path) -> None:
    widths = {
        "unet": ("block_out_channels", [8, 16]),
        "gan": ("base_channels", 8),
        "stylegan2": ("channels", [16, 8]),
        "classifier": ("channels", [8, 16]),
    }
    for name, (field, expected) in widths.items():
        train_family(name, output=tmp_path / name, steps=1, batch_size=2, size=8, width=8)
        assert load_checkpoint(tmp_path / name).config["model"][field] == expected
        settings = json.loads((tmp_path / name / "quality.json").read_text())["training"]
        assert settings["width"] == 8


def test_shipped_checkpoints_are_of_recipes_and_all_are_small() -> None:
    assert set(SHIPPED) <= set(FAMILIES)
    others = {"emoji", "emoji_classifier", "fashion", "fashion_classifier"}
    files = [f for name in {*SHIPPED, *others} for f in shipped_checkpoint(name).iterdir()]
    assert sum(f.stat().st_size for f in files) <= MAX_BYTES
    assert {f.name for f in files} == {"config.json", "model.safetensors", "quality.json", "SOURCE.md", REAL_FEATURES}
    assert {*MODELS, *(known.classifier for known in KNOWN_PICTURES.values())} == {*SHIPPED, *others}


def shipped_record(name: str) -> tuple[dict[str, Any], str, Mapping[str, Any]]:
    """What a shipped checkpoint says of its quality and training, where it came from, and its configuration."""
    folder = shipped_checkpoint(name)
    report = json.loads((folder / "quality.json").read_text())
    return report, (folder / "SOURCE.md").read_text(), load_checkpoint(folder).config


def test_the_shipped_emoji_were_trained_by_the_recipe_that_their_source_shows() -> None:
    report, source, config = shipped_record("emoji")
    steps, rows, width = 24_000, 16, 16
    assert f"--width {width} --steps {steps} --batch-size {rows} " in source
    assert "SIL Open Font License 1.1" in source
    loop = replace(recipes.unet_loop(32), steps=steps, batch_size=rows)
    assert {k: report["training"][k] for k in loop.__dict__} == loop.__dict__
    model = recipes.unet_model(32, 3, len(config["class_names"]), width)
    assert UNetConfig.from_dict(config["model"]) == model
    quality = report["quality"]
    assert quality["class_accuracy"] >= 0.9 * quality["class_accuracy_real"]


def test_the_shipped_fashion_was_trained_by_the_recipe_that_its_source_shows() -> None:
    report, source, config = shipped_record("fashion")
    steps, rows, width = 16_000, 16, 24
    assert f"--width {width} --steps {steps} --batch-size {rows} " in source
    assert "MIT License" in source
    assert (report["training"]["steps"], report["training"]["batch_size"]) == (steps, rows)
    model = recipes.stylegan2_model(32, 1, len(config["class_names"]), width)
    assert StyleGAN2Config.from_dict(config["model"]) == model
    quality = report["quality"]
    assert quality["class_accuracy"] >= 0.95 * quality["class_accuracy_real"]
    assert quality["frechet_distance"] < 20


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_checkpoint_was_trained_by_todays_recipe(name: str) -> None:
    report = json.loads((shipped_checkpoint(name) / "quality.json").read_text())
    loop = getattr(recipes, f"{name}_loop")()
    assert {k: report["training"][k] for k in loop.__dict__} == loop.__dict__
    if name == "lm":
        assert report["quality"]["bits_per_byte"] <= 2.0
    else:
        metric, floor = FLOORS[name]
        assert report["quality"][metric] >= floor


def test_the_shipped_classifier_is_as_good_as_it_says() -> None:
    found = load_checkpoint(shipped_checkpoint("classifier"))
    classifier = Classifier(ClassifierConfig.from_dict(found.config["model"]))
    load_into(classifier, found.tensors)
    data = digits()
    with torch.inference_mode():
        accuracy = class_accuracy(classifier.eval(), data.held_out.numpy(), data.held_out_labels.numpy())
    said = json.loads((found.path.parent / "quality.json").read_text())["quality"]["held_out_accuracy"]
    assert accuracy == pytest.approx(said, abs=REPEATED_SUM)
