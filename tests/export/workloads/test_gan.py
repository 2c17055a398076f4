"""GAN generators from their files to bundles and images, by the command lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aigc_calibration.onnx_function import OnnxFunction
from aigc_export.cli import run
from aigc_export.prepare.calibration_data import calibration_data
from aigc_models.sources import resolve
from aigc_runtime.cli.main import run as run_device
from aigc_runtime.core.compare import psnr_db
from aigc_runtime.opening import open_pipeline
from aigc_runtime.pipelines.gan_styles import linear_path

from ...models.families.stylegan2.paper import mapped, public_state, synthesized
from ...models.families.test_dcgan import trained
from ..cli.test_schemas import check

pytestmark = pytest.mark.slow
QUICK = ["--threads", "1", "--quality-samples", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small StyleGAN2 with classes, a DCGAN, and their bundles."""
    folder = tmp_path_factory.mktemp("gan")
    torch.save({"G_ema": state()}, folder / "style.pth")
    torch.save(trained().state_dict(), folder / "netG.pth")
    for name, options in (
        ("style", []),
        ("netG", []),
        ("noisy", ["--noise", "random"]),
        ("int8", ["--precision", "int8"]),
    ):
        file = "netG" if name == "netG" else "style"
        assert run(["export", str(folder / f"{file}.pth"), "-o", str(folder / name), *options, *QUICK]) == 0
    return folder


def state() -> dict[str, torch.Tensor]:
    return public_state(classes=2, channels=(8, 8, 8))


@torch.no_grad()
def expected(labels: list[int], *, seed: int, psi: float) -> Any:
    z = torch.randn(len(labels), 7, generator=torch.Generator().manual_seed(seed))
    mean = state()["mapping.w_avg"].double()
    w = mean + psi * (mapped(state(), z, labels) - mean)
    return synthesized(state(), w[:, None].repeat(1, 6, 1)).numpy()


def test_a_bundles_images_are_those_of_the_paper(folder: Path) -> None:
    with open_pipeline(folder / "style") as pipeline:
        found = pipeline.generate([1, 0, 1], seed=3, truncation=0.7)
        zero = pipeline.engines.styles(np.zeros((1, 7), np.float32), np.zeros(1, np.int64))
    assert psnr_db(expected([1, 0, 1], seed=3, psi=0.7).astype(np.float32), found) > 100
    assert np.isfinite(zero).all()
    with open_pipeline(folder / "netG") as pipeline, torch.no_grad():
        z = torch.randn(3, 5, generator=torch.Generator().manual_seed(3))
        assert psnr_db(trained()(z[:, :, None, None]).numpy(), pipeline.generate(batch=3, seed=3)) > 100


def test_frames_are_numbered_and_lie_on_the_path(folder: Path, tmp_path: Path, capsys: Any) -> None:
    bundle, target = str(folder / "style"), str(tmp_path / "f_%03d.png")
    capsys.readouterr()
    path = ["--interpolate", "3,9", "--frames", "4", "--class", "1"]
    assert run_device(["generate", bundle, *path, "--scale", "1", "-o", target, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    check(told)
    assert (told["images"], told["width"], told["height"]) == (4, 16, 16)
    assert [file.name for file in sorted(tmp_path.iterdir())] == [f"f_{n:03d}.png" for n in range(4)]
    z = [torch.randn(1, 7, generator=torch.Generator().manual_seed(seed)) for seed in (3, 9)]
    w = linear_path(np.concatenate([mapped(state(), one, [1]).numpy() for one in z]), 4)
    large = synthesized(state(), torch.from_numpy(w)[:, None].repeat(1, 6, 1)).numpy()
    for number in range(4):
        pixels = np.asarray(Image.open(tmp_path / f"f_{number:03d}.png")).transpose(2, 0, 1)
        assert np.abs(pixels - np.clip((large[number] + 1) * 127.5, 0, 255)).max() < 0.51
    assert run_device(["generate", bundle, *path, "-o", str(tmp_path / "grid.npy")]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "grid.npy"), large, atol=1e-4 * np.abs(large).max())


@pytest.mark.parametrize("name", ["style", "netG", "noisy", "int8"])
def test_bundles_are_verified_on_the_host_and_on_a_device(name: str, folder: Path, capsys: Any) -> None:
    assert run_device(["verify", str(folder / name)]) == 0
    capsys.readouterr()
    assert run(["verify", str(folder / name), "--json", *QUICK]) == 0
    told = json.loads(capsys.readouterr().out)
    least, most = (25, 70) if name == "int8" else (100, 400)
    assert least < told["paired"][0]["metric"]["value"] < most


def test_a_synthesis_is_calibrated_on_what_the_mapping_gives(folder: Path, tmp_path: Path) -> None:
    program = resolve(str(folder / "style.pth"), options={"noise": "random"})
    part = program.parts["synthesis"]
    run_nothing: OnnxFunction = None  # type: ignore[assignment]
    latents = calibration_data(program, part=program.parts["mapping"], path=None, samples=20, seed=1)
    styles = calibration_data(program, part=part, path=None, samples=20, seed=1)
    drawn = list(latents.batches(run_nothing))
    fed = list(styles.batches(run_nothing))
    assert styles.rows == sum(len(feeds["ws"]) for feeds in fed) == 20
    with torch.no_grad():
        w = mapped(state(), torch.from_numpy(drawn[0]["latents"]), drawn[0]["class_labels"].tolist()).numpy()
    np.testing.assert_allclose(fed[0]["ws"][:, 5], w, atol=1e-5 * np.abs(w).max())
    assert [fed[0][f"noise_{n}"].shape[2:] for n in range(5)] == [(s, s) for s in (4, 8, 8, 16, 16)]


def test_what_a_generator_does_not_have_is_refused(folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = ["-o", str(tmp_path / "x.png")]
    for bundle, options, message in (
        ("netG", ["--space", "w", "--interpolate", "1,2"], "this generator has no styles"),
        ("netG", ["--truncation-cutoff", "1"], "this generator has no styles"),
        ("netG", ["--noise-seed", "1"], "this generator takes none"),
        ("style", ["--truncation", "3"], "must be a number from -2 to 2"),
        ("style", ["--interpolate", "1,2"], "a path for 2 classes"),
        ("style", ["--interpolate", "1", "--class", "1"], "give two seeds or more"),
        ("style", ["--interpolate", "1,2", "--class", "1", "--seed", "2"], "--interpolate names its seeds"),
        ("style", ["--frames", "4"], "it is for --interpolate"),
        ("style", ["--mix-seed", "4"], "give both: a seed, and the first layer"),
    ):
        assert run_device(["generate", str(folder / bundle), *options, *out]) == 2, options
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
