"""Parts of diffusion pipelines, built by TensorRT-RTX from diffusers' folders on a machine without a GPU.

Every option is as published, in two levels of one layer in place of four of two.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from aigc_export.targets.tensorrt.library import Library
from aigc_models.sources import resolve

from ....models.sources.diffusers.small import write_pipeline
from ....models.sources.diffusers.small_sd import SD15_TEXT, SD15_UNET, write_stable_diffusion
from ....models.sources.diffusers.small_xl import write_stable_diffusion_xl
from .parts import DEVICES, EIGHT_BIT_FLOATS, ReadyPart, parts_of

UNET = {
    **SD15_UNET,
    "attention_head_dim": 2,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 8,
}
VAE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "sample_size": 16,
}
XL_UNET = {
    "attention_head_dim": 2,
    "block_out_channels": (8,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "transformer_layers_per_block": 1,
}
"""One level: sizes and embeddings of texts beside the time are what others do not have."""
MIN_SHARE = {"int8": 0.7, "fp8": 0.7}
"""Of the work in 8 bits: attention's products, first and last convolutions stay float."""
MIN_DB = {"fp16": 50.0, "int8": 12.0, "fp8": 10.0}
"""Of the graph beside PyTorch; the weights are random, and one example calibrates."""


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ReadyPart]:
    folder = tmp_path_factory.mktemp("stable")
    write_stable_diffusion(folder, unet=UNET, vae=VAE, text={**SD15_TEXT, "num_hidden_layers": 2})
    return parts_of(resolve(str(folder)))


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ReadyPart]:
    folder = tmp_path_factory.mktemp("pixels")
    write_pipeline(folder)
    (part,) = parts_of(resolve(str(folder))).values()
    return {"unet": part}


def check_built(rtx: Library, part: ReadyPart, precision: str, folder: Path) -> None:
    built = part.build(rtx, precision, folder, devices=EIGHT_BIT_FLOATS if precision == "fp8" else DEVICES)
    work = built.proof.work
    assert built.proof.source == "engine"
    if precision == "fp16":
        assert work == {"fp16": pytest.approx(1.0)}
    else:
        assert work.keys() == {precision, "fp32"}
        assert work[precision] > MIN_SHARE[precision]
    assert part.graph_db(precision) > MIN_DB[precision]


@pytest.mark.parametrize(
    "name", ["text_encoder", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vae_decoder", "vae_encoder"))]
)
def test_the_parts_beside_the_unet(rtx: Library, stable: dict[str, ReadyPart], name: str, tmp_path: Path) -> None:
    check_built(rtx, stable[name], "fp16", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_the_unet_of_stable_diffusion(
    rtx: Library, stable: dict[str, ReadyPart], precision: str, tmp_path: Path
) -> None:
    check_built(rtx, stable["unet"], precision, tmp_path)


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ReadyPart]:
    folder = tmp_path_factory.mktemp("xl")
    text = {"num_hidden_layers": 2}
    write_stable_diffusion_xl(folder, unet=XL_UNET, vae=VAE, text=text, text_2=text)
    return parts_of(resolve(str(folder)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_encoder_2", "unet"])
def test_the_parts_of_xl_that_others_do_not_have(
    rtx: Library, xl: dict[str, ReadyPart], name: str, tmp_path: Path
) -> None:
    check_built(rtx, xl[name], "fp16", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_the_unet_of_ddpm(rtx: Library, pixels: dict[str, ReadyPart], precision: str, tmp_path: Path) -> None:
    check_built(rtx, pixels["unet"], precision, tmp_path)


@pytest.mark.slow
def test_the_graphs_of_precisions_differ(stable: dict[str, ReadyPart]) -> None:
    """What would be seen if the graph of another precision were built."""
    assert stable["unet"].graph_db("int8") < MIN_DB["fp16"]
