"""The UNet as an ONNX graph: batch and sides vary, and ONNX Runtime gives PyTorch's numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aigc_models.families.unet import UNet, UNetConfig

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# torch 2.13 trips over its own deprecations inside the exporter.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:# The axis name:UserWarning"),
]

TOLERANCE = 1e-5  # float32, relative to the largest output
OPSET = 20

CONFIGS = {
    "class-conditional": UNetConfig(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 12),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        num_class_embeds=11,
        null_class=10,
        norm_num_groups=4,
    ),
    "cross-attention": UNetConfig(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        num_attention_heads=(2, 4),
        cross_attention_dim=6,
        use_linear_projection=True,
        norm_num_groups=4,
        downsample_padding=0,
    ),
    "resampling blocks, a learned time": UNetConfig(
        sample_size=16,
        block_out_channels=(8, 12),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        attention_head_dim=4,
        norm_num_groups=4,
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="learned",
        num_train_timesteps=1000,
        num_class_embeds=3,
        class_embed_type="timestep",
        act_fn="mish",
    ),
    "Fourier features, no attention": UNetConfig(
        sample_size=16,
        block_out_channels=(8, 12),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        time_embedding_type="fourier",
        add_attention=False,
        center_input_sample=True,
        mid_block_scale_factor=1.41,
        act_fn="gelu",
    ),
}


def inputs(config: UNetConfig, batch: int, height: int, width: int, tokens: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    feeds: dict[str, Tensor] = {
        "sample": torch.randn(batch, config.in_channels, height, width, generator=generator),
        "timestep": torch.linspace(0.0, 999.0, batch + 1)[1:] - 0.25,
    }
    if config.num_class_embeds is not None:
        feeds["class_labels"] = torch.arange(batch) % config.num_class_embeds
    if config.cross_attention_dim is not None:
        feeds["encoder_hidden_states"] = torch.randn(batch, tokens, config.cross_attention_dim, generator=generator)
    return feeds


@dataclass(frozen=True, kw_only=True)
class Exported:
    model: UNet
    proto: Any

    def session(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        return onnxruntime.InferenceSession(self.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


FAST = "Fourier features, no attention"
"""The one whose export takes the shortest; each is exported once for all tests of this file."""


@pytest.fixture(
    scope="module",
    params=[name if name == FAST else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS],
)
def exported(request: pytest.FixtureRequest) -> Exported:
    config = CONFIGS[request.param]
    torch.manual_seed(0)
    model = UNet(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases are not left at one and zero
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    unit = config.multiple_of
    batch, tokens = torch.export.Dim("batch", min=1, max=128), torch.export.Dim("tokens", min=1, max=77)
    height = unit * torch.export.Dim("height_units", min=1, max=64)
    width = unit * torch.export.Dim("width_units", min=1, max=64)
    feeds = inputs(config, 2, 2 * unit, 3 * unit)
    dims = {
        "sample": {0: batch, 2: height, 3: width},
        "timestep": {0: batch},
        "class_labels": {0: batch},
        "encoder_hidden_states": {0: batch, 1: tokens},
    }
    with torch.no_grad():
        program = torch.onnx.export(
            model,
            kwargs=feeds,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes={name: dims[name] for name in feeds},
            input_names=list(feeds),
            output_names=["model_output"],
            verbose=False,
        )
    assert program is not None
    return Exported(model=model, proto=program.model_proto)


def worst(exported: Exported, session: Any, feeds: dict[str, Tensor]) -> float:
    """Largest difference, relative to the largest expected value."""
    with torch.no_grad():
        expected = exported.model(**feeds).numpy()
    (actual,) = session.run(None, {name: tensor.numpy() for name, tensor in feeds.items()})
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def test_other_batches_sides_and_context_lengths_match_pytorch(exported: Exported) -> None:
    session, unit = exported.session(), exported.model.config.multiple_of
    for batch, high, wide, tokens in ((1, 4, 4, 5), (1, 1, 1, 1), (5, 3, 2, 7), (2, 1, 4, 2), (3, 2, 8, 77)):
        feeds = inputs(exported.model.config, batch, high * unit, wide * unit, tokens)
        assert worst(exported, session, feeds) <= TOLERANCE, (batch, high, wide, tokens)


def test_the_dynamic_dimensions_keep_their_names(exported: Exported) -> None:
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in exported.proto.graph.input
    }
    config = exported.model.config
    unit = config.multiple_of
    assert list(shapes) == list(inputs(config, 1, unit, unit))
    assert shapes["sample"] == ["batch", config.in_channels, f"{unit}*height_units", f"{unit}*width_units"]
    assert shapes["timestep"] == ["batch"]
    if "class_labels" in shapes:
        assert shapes["class_labels"] == ["batch"]
    if "encoder_hidden_states" in shapes:
        assert shapes["encoder_hidden_states"] == ["batch", "tokens", config.cross_attention_dim]
    assert exported.proto.opset_import[0].version == OPSET


def test_every_norm_is_one_operator_and_no_size_is_worked_out_by_loops(exported: Exported) -> None:
    operators = Counter(node.op_type for node in exported.proto.graph.node)
    kinds = Counter(type(module) for module in exported.model.modules())
    assert operators["InstanceNormalization"] + operators["GroupNormalization"] == kinds[nn.GroupNorm]
    assert operators["LayerNormalization"] == kinds[nn.LayerNorm]
    assert operators["Conv"] == kinds[nn.Conv2d]
    assert operators["Resize"] == len(exported.model.config.block_out_channels) - 1
    unwanted = {"ReduceMean", "ReduceSum", "If", "Loop", "Scan", "Range", "NonZero", "Expand"}
    if exported.model.config.time_embedding_type != "learned":  # which looks a step up, and so makes it an integer
        unwanted.add("Cast")
    assert not unwanted & set(operators)


def test_weights_keep_the_names_of_the_state_dict(exported: Exported) -> None:
    initializers = {tensor.name for tensor in exported.proto.graph.initializer}
    convolutions = {k for k, p in exported.model.named_parameters() if p.dim() == 4}
    assert convolutions <= initializers


def test_the_comparison_sees_a_changed_weight(exported: Exported) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(exported.proto)
    (bias,) = [tensor for tensor in changed.graph.initializer if tensor.name == "conv_in.bias"]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
    broken = Exported(model=exported.model, proto=changed)
    unit = exported.model.config.multiple_of
    assert worst(broken, broken.session(), inputs(exported.model.config, 2, 2 * unit, 2 * unit)) > TOLERANCE


def test_a_side_that_cannot_be_halved_fails_instead_of_giving_a_wrong_picture(exported: Exported) -> None:
    unit = exported.model.config.multiple_of
    feeds = inputs(exported.model.config, 1, 2 * unit + 1, 2 * unit)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail, match="Non-zero status code"):
        exported.session().run(None, {name: tensor.numpy() for name, tensor in feeds.items()})
