from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aigc_models.checkpoint import load_checkpoint, load_into
from aigc_models.classifier import Classifier, ClassifierConfig
from aigc_models.metrics import class_accuracy
from aigc_models.training import families, recipes
from aigc_models.training.families import FAMILIES, train_family
from aigc_models.training.image_data import digits
from aigc_models.zoo import MODELS, load_model, shipped_checkpoint
from aigc_runtime.errors import CheckpointError, InputError, UnknownNameError

SHIPPED = ("classifier", "gan", "lm", "unet")
MOST_BYTES = 12_000_000
REPEATED_SUM = 1e-4  # float32 sums in another order, on another processor
FLOORS = {"classifier": ("held_out_accuracy", 0.97), "gan": ("class_accuracy", 0.9), "unet": ("class_accuracy", 0.9)}


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "SAMPLES", 12)


@pytest.mark.usefixtures("few_samples")
@pytest.mark.parametrize(
    ("name", "metrics", "samples"),
    [
        ("lm", {"bits_per_byte"}, 12),
        ("unet", {"class_accuracy", "frechet_distance"}, 12),
        ("gan", {"class_accuracy", "frechet_distance"}, 12),
        ("classifier", {"held_out_accuracy"}, 359),
    ],
)
def test_a_short_run_leaves_a_checkpoint_with_its_quality(
    tmp_path: Path, name: str, metrics: set[str], samples: int
) -> None:
    calls: list[int] = []
    report = train_family(name, output=tmp_path / "out", steps=2, seed=1, progress=lambda s, n, _: calls.append(s))
    assert calls == [1, 2]
    assert report["quality"].keys() == metrics
    assert report["samples"] == samples
    assert (report["training"]["steps"], report["training"]["seed"]) == (2, 1)
    assert json.loads((tmp_path / "out" / "quality.json").read_text()) == report
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors", "quality.json"]
    if name in MODELS:
        load_model(name, checkpoint=tmp_path / "out")


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_family("classifier", output=tmp_path / folder, steps=2, seed=seed)
    a, b, c = (load_checkpoint(tmp_path / n).sha256 for n in "abc")
    assert a == b
    assert a != c


def test_the_users_own_images_train_a_gan_without_a_judge(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 256, (20, 20), dtype=np.uint8)).save(tmp_path / "data" / name / f"{i}.png")
    report = train_family("gan", output=tmp_path / "out", data=tmp_path / "data", steps=1)
    assert (report["quality"], report["samples"], report["training"]["data"]) == ({}, 0, "data")
    found = load_checkpoint(tmp_path / "out")
    assert found.config["class_names"] == ["cat", "dog"]
    assert found.config["model"]["num_classes"] == 2


@pytest.mark.usefixtures("few_samples")
def test_the_users_own_text(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(b"abc " * 4000)
    report = train_family("lm", output=tmp_path / "out", data=tmp_path / "mine.txt", steps=1)
    assert 0 < report["quality"]["bits_per_byte"] < 10


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": "unett"}, UnknownNameError, "unknown model to train 'unett'(.|\n)*'unet'"),
        ({"steps": 0}, InputError, "steps is 0\nmust be at least 1"),
        ({"seed": -1}, InputError, "seed is -1\nmust be from 0"),
        ({"data": "/nowhere/at/all"}, InputError, "no such file or folder: '/nowhere/at/all'"),
        ({"resume": True}, CheckpointError, "nothing to resume in"),
    ],
)
def test_what_cannot_be_trained(tmp_path: Path, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train_family(**{"name": "classifier", "output": tmp_path / "out", "steps": 1, **options})
    assert list(tmp_path.iterdir()) == []


def test_every_family_has_a_shipped_checkpoint_and_all_are_small() -> None:
    assert sorted(FAMILIES) == list(SHIPPED)
    files = [f for name in SHIPPED for f in shipped_checkpoint(name).iterdir()]
    assert sum(f.stat().st_size for f in files) <= MOST_BYTES
    assert {f.name for f in files} == {"config.json", "model.safetensors", "quality.json"}


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
    judge = Classifier(ClassifierConfig.from_dict(found.config["model"]))
    load_into(judge, found.tensors)
    data = digits()
    with torch.inference_mode():
        accuracy = class_accuracy(judge.eval(), data.held_out.numpy(), data.held_out_labels.numpy())
    said = json.loads((found.path.parent / "quality.json").read_text())["quality"]["held_out_accuracy"]
    assert accuracy == pytest.approx(said, abs=REPEATED_SUM)
