"""The program of a latent diffusion model: four parts whose graphs compute what their modules compute at any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from aigc_models.example_sizes import run_sizes
from aigc_models.families.clip_text import ClipText, ClipTextConfig
from aigc_models.families.tiny_vae import AutoencoderTiny, TinyVaeConfig
from aigc_models.families.unet import UNet, UNetConfig
from aigc_models.families.vae import AutoencoderKL, VaeConfig
from aigc_models.program import Part, Program, example_feeds
from aigc_models.text_to_image_program import text_to_image_program, vae_parts
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.pipelines.text_to_image_settings import TextToImageSettings

# torch 2.13 trips over its own deprecations inside the exporter.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:# The axis name:UserWarning"),
]

TOLERANCE = 1e-5  # float32, relative to the largest output
OPSET = 20

TEXT = ClipTextConfig(vocab_size=30, hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "mid_block_type": None,
    "num_attention_heads": 2,
    "cross_attention_dim": 12,
    "norm_num_groups": 4,
}
VAE = VaeConfig(
    block_out_channels=(4, 8),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    norm_num_groups=2,
)
SETTINGS = TextToImageSettings(
    schedule=ScheduleConfig(),
    latent_channels=4,
    latent_size=(8, 8),
    latent_scale=2,
    scaling_factor=0.2,
    tokenizer=TokenizerInfo(kind="bytes"),
    vocab_size=30,
    prompt_tokens=7,
    pad_token_id=0,
    default_sampler="ddim",
    default_steps=10,
    default_guidance_scale=7.5,
)


def randomized(module: Any) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def make(*, unet: dict[str, Any] | None = None, **options: Any) -> Program:
    torch.manual_seed(0)
    return text_to_image_program(
        text_encoder=randomized(ClipText(TEXT)),
        unet=randomized(UNet(UNetConfig(**{**UNET, **(unet or {})}))),
        vae=randomized(AutoencoderKL(VAE)),
        settings=SETTINGS,
        assets={},
        **options,
    )


def graph_outputs(part: Part, feeds: list[dict[str, Array]]) -> list[list[Array]]:
    """What ONNX Runtime gives for the graph of a part, which is traced at the first feeds."""
    onnxruntime = pytest.importorskip("onnxruntime")
    free = {dim.name: torch.export.Dim.AUTO for dim in part.interface.dims}
    shapes = [{i: free[n] for i, n in enumerate(spec.shape) if n in free} for spec in part.interface.inputs]
    arguments = tuple(torch.from_numpy(feeds[0][spec.name]) for spec in part.interface.inputs)
    with torch.no_grad():
        exported = torch.onnx.export(
            part.module,
            arguments,
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in part.interface.inputs],
            dynamic_shapes=tuple(shapes),
            verbose=False,
        )
    assert exported is not None
    session = onnxruntime.InferenceSession(exported.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(None, one) for one in feeds]


def make_xl() -> Program:
    """With two text encoders, and every condition of the time."""
    second = ClipText(replace(TEXT, hidden_size=8, num_hidden_layers=2, projection_dim=6))
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    added |= {"projection_class_embeddings_input_dim": 30, "cross_attention_dim": 20, "time_cond_proj_dim": 6}
    return make(unet=added, text_encoder_2=randomized(second))


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (make, "text_encoder"),
        *(pytest.param(make, name, marks=pytest.mark.slow) for name in ("unet", "vae_decoder", "vae_encoder")),
        (make_xl, "text_encoder"),
        *(pytest.param(make_xl, name, marks=pytest.mark.slow) for name in ("text_encoder_2", "unet")),
    ],
)
def test_graphs_compute_what_modules_do_at_any_size(program: Callable[[], Program], name: str) -> None:
    part = program().parts[name]
    feeds = [example_feeds(part, sizes, seed=1) for sizes in run_sizes(part)]
    assert feeds[0][part.interface.inputs[0].name].shape != feeds[1][part.interface.inputs[0].name].shape
    for one, found in zip(feeds, graph_outputs(part, feeds), strict=True):
        expected = TorchSession(part).run(one)
        for output, array in zip(part.interface.outputs, found, strict=True):
            wanted = expected[output.name]
            assert array.shape == wanted.shape
            assert np.abs(array - wanted).max() <= TOLERANCE * np.abs(wanted).max()


@pytest.mark.slow
def test_an_autoencoder_without_a_distribution() -> None:
    tiny = TinyVaeConfig(
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    decoder, encoder = vae_parts(randomized(AutoencoderTiny(tiny)))
    assert [spec.name for spec in encoder.interface.outputs] == ["mean"]
    for part in (decoder, encoder):
        names = {f"{name}.weight" for name in part.hints.sensitive}
        assert names <= part.module.state_dict().keys()
        feeds = [example_feeds(part, sizes, seed=1) for sizes in run_sizes(part)]
        for one, (found,) in zip(feeds, graph_outputs(part, feeds), strict=True):
            wanted = TorchSession(part).run(one)[part.interface.outputs[0].name]
            assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_interfaces_say_what_the_pipeline_expects() -> None:
    parts = make(unet={"time_cond_proj_dim": 6, "in_channels": 9}).parts
    shapes = {
        name: {spec.name: spec.shape for spec in (*part.interface.inputs, *part.interface.outputs)}
        for name, part in parts.items()
    }
    assert shapes == {
        "text_encoder": {"input_ids": ("batch", 7), "encoder_hidden_states": ("batch", 7, 12)},
        "unet": {
            "sample": ("batch", 9, "height", "width"),
            "timestep": ("batch",),
            "encoder_hidden_states": ("batch", 7, 12),
            "timestep_cond": ("batch", 6),
            "model_output": ("batch", 4, "height", "width"),
        },
        "vae_decoder": {"latent": ("batch", 4, "height", "width"), "image": ("batch", 3, "2*height", "2*width")},
        "vae_encoder": {
            "image": ("batch", 3, "height", "width"),
            "mean": ("batch", 4, "height//2", "width//2"),
            "std": ("batch", 4, "height//2", "width//2"),
        },
    }
    assert parts["unet"].interface.dims_by_name["height"].multiple_of == 2
    assert parts["vae_encoder"].interface.dims_by_name["width"].multiple_of == 2
    assert parts["text_encoder"].interface.inputs[0].high == 30


def test_two_text_encoders() -> None:
    parts = make_xl().parts
    assert list(parts) == ["text_encoder", "text_encoder_2", "unet", "vae_decoder", "vae_encoder"]
    outputs = {spec.name: spec.shape for spec in parts["text_encoder_2"].interface.outputs}
    assert outputs == {"encoder_hidden_states": ("batch", 7, 8), "text_embeds": ("batch", 6)}
    inputs = {spec.name: spec.shape for spec in parts["unet"].interface.inputs[2:]}
    assert inputs == {
        "encoder_hidden_states": ("batch", 7, 20),
        "timestep_cond": ("batch", 6),
        "text_embeds": ("batch", 6),
        "time_ids": ("batch", 6),
    }


def test_sides_may_be_fixed() -> None:
    parts = make(dynamic_size=False).parts
    assert parts["unet"].interface.inputs[0].shape == ("batch", 4, 8, 8)
    assert parts["vae_encoder"].interface.inputs[0].shape == ("batch", 3, 16, 16)
    assert {dim.name for part in parts.values() for dim in part.interface.dims} == {"batch"}


def test_a_vae_of_one_level_has_latents_as_wide_as_its_pictures() -> None:
    torch.manual_seed(0)
    decoder, encoder = vae_parts(AutoencoderKL(VaeConfig(block_out_channels=(4,), norm_num_groups=2)))
    assert decoder.interface.outputs[0].shape == ("batch", 3, "height", "width")
    assert encoder.interface.outputs[0].shape == ("batch", 4, "height", "width")


def test_configurations_are_kept_and_components_are_checked() -> None:
    config = make().model_config
    assert set(config) == {"text_encoder", "unet", "vae"}
    assert config["vae"] == VAE.to_dict()
    with pytest.raises(ConfigError, match="cross_attention_dim is 10, the text encoder's hidden_size 12"):
        make(unet={"cross_attention_dim": 10})
