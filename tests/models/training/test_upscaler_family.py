"""Training an upscaler: its patches, its quality against Pillow and numpy, and that the checkpoint is exported."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch.utils.flop_counter import FlopCounterMode

from aigc_models.data.photos import PhotoData
from aigc_models.families.degradation import Degradation
from aigc_models.families.srvgg import SRVGGNet, SRVGGNetConfig
from aigc_models.sources import outline, resolve
from aigc_models.torch_session import TorchSession
from aigc_models.training import estimate, recipes, upscaler_family
from aigc_models.training.every import Every
from aigc_models.training.families import FAMILIES, train_family
from aigc_models.training.loop import LoopConfig
from aigc_models.training.options import TrainOptions
from aigc_models.training.upscaler_task import UpscalerTask
from aigc_runtime.errors import AigcError, InputError
from aigc_runtime.pipelines.upscale import UpscalePipeline

from .interrupted import assert_resumes_bit_for_bit

PSNR_TOLERANCE_DB = 0.02  # pixels that two resamplers round to different steps of 8 bits


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def model(channels: int = 3, scale: int = 2) -> SRVGGNetConfig:
        return SRVGGNetConfig(channels=channels, num_feat=6, num_conv=1, upscale=scale)

    monkeypatch.setattr(recipes, "upscaler_model", model)


def photo_folder(root: Path, count: int = 6, side: int = 40) -> Path:
    """Pieces of a photo."""
    root.mkdir()
    pixels = load_sample_image("china.jpg")
    for i in range(count):
        Image.fromarray(pixels[20 * i : 20 * i + side, 60 * i : 60 * i + side]).save(root / f"{i}.png")
    return root


def test_a_short_run_leaves_an_upscaler_that_the_export_takes(tmp_path: Path) -> None:
    data = photo_folder(tmp_path / "data")
    told: list[str] = []
    report = train_family(
        "upscaler",
        output=tmp_path / "out",
        data=data,
        steps=2,
        batch_size=2,
        scale=2,
        size=16,
        sample_every=Every(steps=1),
        notify=told.append,
    )
    assert told[:2] == ["6 photos, 40x40 RGB", "1 of them held out"]
    assert report["quality"].keys() == {"psnr_db", "bicubic_psnr_db"}
    assert (report["samples"], report["data"]) == (1, "held-out part of 'data'")
    assert (report["training"]["scale"], report["training"]["size"]) == (2, 16)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["family"] == "upscaler"
    assert config["degradation"] == {"scale": 2, "resize": "bicubic", "blur": False, "noise": False, "jpeg": False}
    with Image.open(tmp_path / "out" / "samples-0000002.png") as drawn:
        assert drawn.size == (3 * 40 + 4 * 2, 40 + 2 * 2)  # bicubic, the model, the photo
    assert outline(str(tmp_path / "out"))[0] == "by_keys"
    program = resolve(str(tmp_path / "out"))
    assert (program.kind, program.settings.scale, program.settings.overlap) == ("upscale", 2, 3)
    image = np.asarray(Image.open(data / "0.png"))
    large = UpscalePipeline(TorchSession(program.part), program.settings).generate(image)
    assert large.shape == (80, 80, 3)


def test_quality_is_that_of_pillow_and_numpy() -> None:
    prepared = FAMILIES["upscaler"](None, TrainOptions(steps=1), 5)
    model: Any = prepared.task.model.eval()
    with torch.no_grad():
        model.body[-1].weight.zero_()
        model.body[-1].bias.zero_()  # what is left enlarges to the nearest
    measured = prepared.finish(model)
    flower = load_sample_image("flower.jpg")[: 427 // 2 * 2, (640 - 512) // 2 : (640 - 512) // 2 + 512]
    small = Image.fromarray(flower).resize((256, 213), Image.Resampling.BICUBIC)
    quality = {metric.name: metric.value for metric in measured.metrics}
    for name, how in (("psnr_db", Image.Resampling.NEAREST), ("bicubic_psnr_db", Image.Resampling.BICUBIC)):
        large = np.asarray(small.resize((512, 426), how)).astype(np.float64)
        expected = 10 * math.log10(255**2 / np.mean((large - flower) ** 2))
        assert quality[name] == pytest.approx(expected, abs=PSNR_TOLERANCE_DB), name
    assert (measured.samples, measured.data) == (1, "scikit-learn's flower.jpg")


def test_it_goes_on_bit_for_bit_also_within_the_game(tmp_path: Path) -> None:
    data = photo_folder(tmp_path / "data")
    options: dict[str, Any] = {"steps": 6, "batch_size": 2, "scale": 2, "size": 16, "data": data}
    options |= {"gan_weight": 0.1, "degradation": "area,blur,noise,jpeg"}
    assert_resumes_bit_for_bit(tmp_path, "upscaler", stop_at=4, **options)  # the game begins behind step 3
    rows = (tmp_path / "whole" / "curve.csv").read_text().splitlines()
    assert rows[0].startswith("step,loss,discriminator,held_out_loss,")
    assert [row.split(",")[2] != "" for row in rows[1:]] == [False] * 3 + [True] * 3


def test_a_game_that_is_played_changes_the_weights(tmp_path: Path) -> None:
    def trained(weight: float) -> torch.Tensor:
        torch.manual_seed(0)
        config = SRVGGNetConfig(channels=1, num_feat=4, num_conv=1, upscale=2)
        photos = PhotoData(train=(texture(),), held_out=(texture(),))
        loop = LoopConfig(steps=4, batch_size=2, learning_rate=1e-3)
        task = UpscalerTask(config, loop, photos, Degradation(scale=2), 8, gan_weight=weight)
        rng = torch.Generator().manual_seed(0)
        for _ in range(4):
            task.step(rng)
        return torch.nn.utils.parameters_to_vector(task.model.parameters()).detach()

    assert torch.equal(trained(0.1), trained(0.1))
    assert not torch.equal(trained(0.1), trained(0.2))


def texture(side: int = 16) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, side, side), dtype=np.uint8))


def test_patches_are_the_photo_in_eight_ways() -> None:
    seen: list[np.ndarray] = []

    class Recorder(SRVGGNet):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.extend(image.numpy().copy())
            return super().forward(image)

    config = SRVGGNetConfig(channels=1, num_feat=2, num_conv=1, upscale=1)
    photo = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8)
    loop = LoopConfig(steps=1, batch_size=100, learning_rate=1e-3)
    task = UpscalerTask(config, loop, PhotoData(train=(photo,), held_out=(photo,)), Degradation(scale=1), 8)
    task.model = Recorder(config)
    task.step(torch.Generator().manual_seed(0))
    square = photo[0].numpy() / np.float32(255)
    ways = {np.rot90(m, k).tobytes() for m in (square, square[:, ::-1]) for k in range(4)}
    assert {patch[0].tobytes() for patch in seen} == ways


def test_the_cost_of_a_step_is_counted_right() -> None:
    plain, game = (
        FAMILIES["upscaler"](None, TrainOptions(batch_size=2, gan_weight=weight), 1).task for weight in (None, 0.1)
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain.model(torch.zeros(2, 3, 32, 32))
    assert estimate.step_cost(plain, 2).flops == pytest.approx(3 * counter.get_total_flops(), rel=0.1)
    assert estimate.step_cost(game, 2).flops > 1.5 * estimate.step_cost(plain, 2).flops


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 17}, "size is 17, and the scale 2\n.*multiple of the scale, at least 11: the nearest is 16"),
        ({"size": 4}, "size is 4, and the scale 2\n.*at least 11: the nearest is 12"),
        ({"size": 500}, "size is 500\nthe built-in photos are 640x427"),
        ({"scale": 0}, "scale is 0\nmust be from 1 to 16"),
        ({"degradation": "rain"}, "degradation is 'rain'"),
        ({"gan_weight": -1.0}, "gan_weight is -1.0\nmust be from 0 to 100"),
        ({"gan_weight": math.nan}, "gan_weight is nan"),
        ({"background": "white"}, "the built-in photos have none"),
        ({"vae": "somewhere"}, "vae is 'somewhere'\nmeans nothing to the recipe upscaler"),
        ({"name": "unet", "scale": 2}, "scale is 2\nmeans nothing to the recipe unet: leave it out"),
        ({"name": "lm", "gan_weight": 0.1}, "gan_weight is 0.1\nmeans nothing to the recipe lm"),
        ({"name": "vae", "degradation": "area"}, "degradation is 'area'\nmeans nothing to the recipe vae"),
    ],
)
def test_what_cannot_be_trained(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_family(**{"name": "upscaler", "output": tmp_path / "out", "steps": 1, **options})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "side", "message"),
    [(4, 70, "holds 4 different photos\nneed at least 5"), (6, 20, "is 20x20, and what is trained on is 64x64")],
)
def test_data_that_is_too_small(tmp_path: Path, count: int, side: int, message: str) -> None:
    data = photo_folder(tmp_path / "data", count, side)
    with pytest.raises(AigcError, match=message):
        train_family("upscaler", output=tmp_path / "out", data=data, steps=1)
    assert not (tmp_path / "out").exists()


def test_a_resumed_run_of_another_scale_is_refused(tmp_path: Path) -> None:
    def stop(step: int, _steps: int, _losses: dict[str, float]) -> None:
        if step == 2:  # the state of step 1 is saved
            raise KeyboardInterrupt

    options: dict[str, Any] = {"output": tmp_path / "out", "steps": 2, "size": 16, "batch_size": 1}
    with pytest.raises(KeyboardInterrupt):
        train_family("upscaler", **options, save_every=Every(steps=1), on_step=stop)
    # A checkpoint of an unfinished run holds the state, too, and is exported all the same.
    assert resolve(str(tmp_path / "out")).settings.scale == 2
    with pytest.raises(AigcError, match=r"used other settings: .*scale was null, is 4"):
        train_family("upscaler", **options, resume=True, scale=4)


def test_samples_are_of_the_model_that_is_given() -> None:
    prepared = FAMILIES["upscaler"](None, TrainOptions(steps=1), 1)
    assert prepared.sample is not None
    first = prepared.sample(prepared.task.model.eval())
    with torch.no_grad():
        next(prepared.task.model.parameters()).add_(1.0)
    assert prepared.sample(prepared.task.model) != first
    assert upscaler_family.SHOWN_SIDE == 128
