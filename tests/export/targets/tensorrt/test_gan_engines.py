"""GAN generators, built by TensorRT-RTX from their files on a machine without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aigc_export.targets.tensorrt.library import Library
from aigc_models.sources import resolve

from ....models.families.stylegan2.paper import public_state
from ....models.families.test_dcgan import trained
from .parts import EIGHT_BIT_FLOATS, ReadyPart, parts_of


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ReadyPart]:
    """A StyleGAN2 with classes and noise: mapping and synthesis."""
    file = tmp_path_factory.mktemp("style") / "style.pth"
    torch.save({"G_ema": public_state(classes=2, channels=(8, 8, 8))}, file)
    return parts_of(resolve(str(file)))


@pytest.fixture(scope="module")
def dcgan(tmp_path_factory: pytest.TempPathFactory) -> ReadyPart:
    file = tmp_path_factory.mktemp("dcgan") / "netG.pth"
    torch.save(trained().state_dict(), file)
    (part,) = parts_of(resolve(str(file))).values()
    return part


@pytest.mark.parametrize("name", ["mapping", pytest.param("synthesis", marks=pytest.mark.slow)])
def test_stylegan2_in_16_bits(rtx: Library, style: dict[str, ReadyPart], name: str, tmp_path: Path) -> None:
    built = style[name].build(rtx, "fp16", tmp_path)
    assert built.proof.source == "engine"
    assert built.proof.work == {"fp16": pytest.approx(1.0)}
    assert style[name].graph_db("fp16") > 55


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "devices"), [("int8", ()), ("fp8", EIGHT_BIT_FLOATS)])
def test_stylegan2_in_8_bits(
    rtx: Library, style: dict[str, ReadyPart], precision: str, devices: tuple[str, ...], tmp_path: Path
) -> None:
    """Convolutions that double the sides are transposed, and stay float: half of the work of so small a network."""
    built = style["synthesis"].build(rtx, precision, tmp_path, **({"devices": devices} if devices else {}))
    assert built.proof.work.keys() == {precision, "fp32"}
    assert built.proof.work[precision] > 0.4


@pytest.mark.slow
def test_dcgan_in_16_bits(rtx: Library, dcgan: ReadyPart, tmp_path: Path) -> None:
    built = dcgan.build(rtx, "fp16", tmp_path)
    assert built.proof.work == {"fp16": pytest.approx(1.0)}
    assert dcgan.graph_db("fp16") > 55
