"""The program of an upscaler: its tiles fit its engine, and PyTorch through tiles is PyTorch on the whole picture."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aigc_models.families.rrdbnet import RRDBNet, RRDBNetConfig
from aigc_models.families.srvgg import SRVGGNet, SRVGGNetConfig
from aigc_models.torch_session import open_torch
from aigc_models.upscale_program import upscale_program
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.upscale import UpscalePipeline

from ..page_blocks import run_python

PAGE = Path(__file__).parents[2] / "docs" / "upscaling.md"


class Far(nn.Module):
    """Each pixel is a mean of those around it, weighed less and less as they are farther away."""

    def __init__(self, radius: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(channels=3, scale=1, radius=radius)
        weights = torch.tensor([0.92 ** abs(d) for d in range(-radius, radius + 1)])
        self.register_buffer("weights", (weights / weights.sum())[None, None].repeat(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        weights, reach = self.get_buffer("weights"), self.config.radius
        rows = functional.conv2d(image, weights[:, :, None], padding=(0, reach), groups=3)
        return functional.conv2d(rows, weights[..., None], padding=(reach, 0), groups=3)


def make(model: Any) -> Any:
    torch.manual_seed(3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize(
    ("model", "unit", "tile"),
    [
        (lambda: SRVGGNet(SRVGGNetConfig(num_feat=4, num_conv=2, upscale=2)), 1, 12),
        (lambda: RRDBNet(RRDBNetConfig(num_feat=4, num_block=1, num_grow_ch=2)), 1, 48),
        (lambda: RRDBNet(RRDBNetConfig(num_feat=4, num_block=1, num_grow_ch=2, unshuffle=2)), 2, 96),
    ],
)
def test_tiles_are_the_whole_picture(model: Any, unit: int, tile: int) -> None:
    network = make(model())
    program = upscale_program(network, multiple_of=unit, tile=tile, overlap=-(-network.config.radius // unit) * unit)
    image = np.random.default_rng(0).random((tile + 6 * unit, 2 * tile + unit, 3), np.float32)
    found = UpscalePipeline(open_torch(program), program.settings).generate(image)
    with torch.no_grad():
        whole = network(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-5 * np.abs(whole).max())


def test_a_network_that_reaches_little_overlaps_by_its_reach() -> None:
    flat = upscale_program(SRVGGNet(SRVGGNetConfig(num_feat=2, num_conv=16)))
    assert (flat.settings.overlap, flat.settings.tile, flat.notes) == (18, 128, ())


def test_a_deep_network_overlaps_by_what_its_weights_let_through() -> None:
    torch.manual_seed(0)
    config = RRDBNetConfig(num_feat=2, num_block=6, num_grow_ch=2)
    faint = upscale_program(RRDBNet(config))
    assert (faint.settings.overlap <= 24, faint.settings.tile) == (True, 128)
    assert any("and a pixel reaches 94, though hardly so far" in note for note in faint.notes)
    far = upscale_program(Far(60))
    assert 24 < far.settings.overlap < 60
    assert far.settings.tile == -(-4 * far.settings.overlap // 32) * 32
    least = 2 * far.settings.overlap + 1
    assert upscale_program(Far(60), tile=least).settings.overlap == far.settings.overlap
    with pytest.raises(ConfigError, match=f"tile is 80, and tiles of .* by 2 x .* pixels\nmust be at least {least}$"):
        upscale_program(Far(60), tile=80)


def test_tiles_of_a_deep_network_have_no_seam() -> None:
    network = Far(80)
    program = upscale_program(network)
    assert program.settings.overlap < 64
    settings = program.settings
    image = np.random.default_rng(0).random((settings.tile + 6, 2 * settings.tile + 1, 3), np.float32)
    with torch.no_grad():
        whole = network(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    pipeline = UpscalePipeline(open_torch(program), settings)
    assert np.abs(pipeline.generate(image) - whole).max() <= 1 / 255
    assert np.abs(pipeline.generate(image, overlap=0) - whole).max() > 1 / 255


def test_tiles_that_fit_no_engine_are_refused() -> None:
    model = RRDBNet(RRDBNetConfig(num_feat=2, num_block=1, num_grow_ch=2, unshuffle=2))
    least = 2 * upscale_program(model, multiple_of=2).settings.overlap + 2
    assert upscale_program(model, multiple_of=2, tile=least).settings.tile == least
    for tile in (33, least - 2, least + 1):
        with pytest.raises(ConfigError, match=f"tile is {tile}, .*\nmust be at least {least} and a multiple of 2"):
            upscale_program(model, multiple_of=2, tile=tile)
    for tile in (0, -8, 8193):
        with pytest.raises(ConfigError, match=f"tile is {tile}\nmust be from 1 to 8,192"):
            upscale_program(model, multiple_of=2, tile=tile)
    with pytest.raises(ConfigError, match="tile is 33"):
        upscale_program(model, multiple_of=2, tile=33, overlap=4)
    with pytest.raises(ConfigError, match="overlap is 20"):
        upscale_program(model, multiple_of=2, tile=32, overlap=20)
    with pytest.raises(ConfigError, match="Linear has no config"):
        upscale_program(nn.Linear(1, 1))


def test_a_network_of_another_form_comes_in_by_a_function_as_the_page_shows() -> None:
    program = run_python(PAGE)["make_program"]()
    assert (program.settings.scale, program.settings.channels, program.name) == (2, 3, "mine")
    picture = np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8)
    with UpscalePipeline(open_torch(program), program.settings, program.engines) as pipeline:
        assert pipeline.generate(picture).shape == (40, 66, 3)
