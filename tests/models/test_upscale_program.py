"""The program of an upscaler: its tiles fit its engine, and PyTorch through tiles is PyTorch on the whole picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aigc_models.families.rrdbnet import RRDBNet, RRDBNetConfig
from aigc_models.families.srvgg import SRVGGNet, SRVGGNetConfig
from aigc_models.torch_session import open_torch
from aigc_models.upscale_program import upscale_program
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.upscale import UpscalePipeline


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


def test_a_deep_network_overlaps_by_less_than_it_reaches_and_says_so() -> None:
    deep = upscale_program(RRDBNet(RRDBNetConfig(num_feat=2, num_block=6, num_grow_ch=2)))
    assert deep.settings.overlap == 24
    assert any("overlap by 2 x 24 pixels, and a pixel reaches 94" in note for note in deep.notes)
    flat = upscale_program(SRVGGNet(SRVGGNetConfig(num_feat=2, num_conv=16)))
    assert (flat.settings.overlap, flat.notes) == (18, ())


def test_tiles_that_fit_no_engine_are_refused() -> None:
    model = RRDBNet(RRDBNetConfig(num_feat=2, num_block=1, num_grow_ch=2, unshuffle=2))
    with pytest.raises(ConfigError, match="tile is 33"):
        upscale_program(model, multiple_of=2, tile=33)
    with pytest.raises(ConfigError, match="overlap is 20"):
        upscale_program(model, multiple_of=2, tile=32, overlap=20)
    with pytest.raises(ConfigError, match="Linear has no config"):
        upscale_program(nn.Linear(1, 1))
