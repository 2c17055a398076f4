"""An upscaler from its file to a bundle and a larger picture, by the command lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aigc_export.cli import run
from aigc_export.workloads.samples.upscale import EVALUATION_PHOTO, photo
from aigc_models.families.srvgg import SRVGGNet, SRVGGNetConfig
from aigc_models.families.super_resolution import super_resolution_step
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.cli.main import run as run_device
from aigc_runtime.opening import open_pipeline

from ..cli.test_schemas import check

QUICK = ["--threads", "1"]
CONFIG = SRVGGNetConfig(num_feat=8, num_conv=2, upscale=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that learned a little, as Real-ESRGAN's files hold one, and pictures."""
    folder = tmp_path_factory.mktemp("upscale")
    torch.manual_seed(0)
    model = SRVGGNet(CONFIG)
    large = torch.from_numpy(photo(EVALUATION_PHOTO))[None, :, 100:260, 100:260]
    small = torch.nn.functional.avg_pool2d(large, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(30):
        super_resolution_step(model, optimizer, images=small, targets=large, max_grad_norm=1.0)
    torch.save({"params_ema": model.state_dict()}, folder / "x2.pth")
    (folder / "pictures").mkdir()
    pixels = (photo(EVALUATION_PHOTO).transpose(1, 2, 0) * 255).round().astype(np.uint8)
    for number in range(3):
        Image.fromarray(pixels[100 * number : 100 * number + 150, 200:360]).save(folder / "pictures" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def bundles(folder: Path) -> dict[str, Path]:
    common = ["--quality-samples", "3", *QUICK]
    assert run(["export", str(folder / "x2.pth"), "-o", str(folder / "fp32"), *common]) == 0
    data = ["--calibration-data", str(folder / "pictures"), "--eval-data", str(folder / "pictures")]
    more = ["--precision", "int8", "--calibration-samples", "6", "--allow-slower", *data]
    assert run(["export", str(folder / "x2.pth"), "-o", str(folder / "int8"), *more, *common]) == 0
    return {precision: folder / precision for precision in ("fp32", "int8")}


def whole(folder: Path, pixels: np.ndarray) -> Any:
    model = SRVGGNet(CONFIG).eval()
    model.load_state_dict(torch.load(folder / "x2.pth", weights_only=True)["params_ema"])
    with torch.no_grad():
        large = model(torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None])
    return large[0].permute(1, 2, 0).numpy()


def test_a_picture_of_several_tiles_is_what_pytorch_makes_of_the_whole(
    folder: Path, bundles: dict[str, Path], capsys: Any
) -> None:
    source, target = folder / "pictures" / "1.png", folder / "large.png"
    capsys.readouterr()
    assert run_device(["generate", str(bundles["fp32"]), "--image", str(source), "-o", str(target), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    check(told)
    assert (told["width"], told["height"], told["channels"], told["notes"]) == (320, 300, 3, [])
    expected = whole(folder, np.asarray(Image.open(source)))
    found = np.asarray(Image.open(target))
    assert found.shape == (300, 320, 3)
    assert np.abs(found - np.clip(expected * 255, 0, 255)).max() <= 0.501
    with open_pipeline(bundles["fp32"]) as pipeline:
        exact = pipeline.generate(np.asarray(Image.open(source)).astype(np.float32) / 255)
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-5)


def test_bundles_are_verified_on_the_host_and_on_a_device(bundles: dict[str, Path], capsys: Any) -> None:
    assert run(["verify", str(bundles["fp32"]), "--quality-samples", "2", "--json", *QUICK]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["generation"]["metric"] == "psnr_db"
    (paired,) = told["paired"]
    assert paired["metric"]["value"] > 100
    assert paired["metric"]["data"] == f"scikit-learn's {EVALUATION_PHOTO}"
    assert run_device(["verify", str(bundles["int8"])]) == 0
    assert run_device(["bench", str(bundles["int8"]), "--runs", "2", "--json"]) == 0
    told = json.loads("{" + capsys.readouterr().out.partition("\n{")[2])
    assert told["generation"]["unit"] == "tile"


def test_eight_bits_cost_a_little(folder: Path, bundles: dict[str, Path]) -> None:
    manifest = json.loads((bundles["int8"] / "manifest.json").read_text())
    assert manifest["pipeline"]["kind"] == "upscale"
    image = np.asarray(Image.open(folder / "pictures" / "0.png"))
    with open_pipeline(bundles["int8"]) as pipeline:
        found = pipeline.generate(image.astype(np.float32) / 255)
    error = float(((found - whole(folder, image)) ** 2).mean())
    assert 1e-10 < error < 10**-3  # 30 to 100 dB: rounded, and not by much


def test_what_calibrates_or_evaluates_nothing_is_refused(folder: Path, capsys: Any) -> None:
    command = ["export", str(folder / "x2.pth"), "-o", str(folder / "none"), "--precision", "int8", *QUICK]
    assert run([*command, "--calibration-data", str(folder / "x2.pth")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    (folder / "empty").mkdir(exist_ok=True)
    assert run([*command, "--eval-data", str(folder / "empty")]) == 2
    assert "holds no pictures" in capsys.readouterr().err
    assert not (folder / "none").exists()


def test_options_of_other_kinds_are_refused(bundles: dict[str, Path], capsys: Any) -> None:
    assert run_device(["generate", str(bundles["fp32"]), "--prompt", "x", "-o", "x.png"]) == 2
    assert "--prompt means nothing to a upscale bundle" in capsys.readouterr().err
    assert run_device(["generate", str(bundles["fp32"]), "-o", "x.png"]) == 2
    assert "no picture was given" in capsys.readouterr().err


def test_tiles_of_a_side_that_is_asked_for(folder: Path, tmp_path: Path, capsys: Any) -> None:
    source = str(folder / "x2.pth")
    common = ["--quality-samples", "2", *QUICK]
    assert run(["export", source, "-o", str(tmp_path / "out"), "--tile", "20", *common]) == 0
    assert Bundle.open(tmp_path / "out").manifest.pipeline.settings.tile == 20
    image = np.asarray(Image.open(folder / "pictures" / "0.png")).astype(np.float32) / 255
    with open_pipeline(tmp_path / "out") as pipeline:
        np.testing.assert_allclose(pipeline.generate(image), whole(folder, image * 255), rtol=0, atol=1e-5)
    # The bundle's own origin says in which tiles it is to be loaded again.
    assert run(["verify", str(tmp_path / "out"), *common]) == 0
    capsys.readouterr()
    for side, least in (("8", 9), ("1", 9)):
        assert run(["export", source, "-o", str(tmp_path / "none"), "--tile", side, *QUICK]) == 2
        assert f"tile is {side}, and tiles of this network overlap by 2 x 4 pixels" in (err := capsys.readouterr().err)
        assert f"must be at least {least}" in err
    assert run(["export", "gan", "-o", str(tmp_path / "none"), "--tile", "32", *QUICK]) == 2
    assert "unknown export option of 'gan' 'tile'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("precision", "devices", "share"),
    [("fp16", ("8.6", "8.9", "12.0"), 0.99), ("int8", ("8.6", "8.9", "12.0"), 0.4), ("fp8", ("8.9",), 0.4)],
)
def test_tensorrt_rtx_builds_it_without_a_gpu(
    folder: Path, precision: str, devices: tuple[str, ...], share: float, tmp_path: Path
) -> None:
    arguments = [str(folder / "x2.pth"), "-o", str(tmp_path / "out"), "--precision", precision, *QUICK]
    arguments += ["--target", "tensorrt-rtx", "--optimization-level", "0", "--quality-samples", "2"]
    arguments += [word for device in devices for word in ("--compute-capability", device)]
    calibration = [] if precision == "fp16" else ["--calibration-samples", "4"]
    assert run(["export", *arguments, *calibration]) == 0
    (engine,) = Bundle.open(tmp_path / "out").manifest.engines.values()
    assert engine.build is not None
    assert engine.build.compute_capabilities == devices
    assert engine.build.work_source == "engine"
    assert engine.build.work[precision] > share
