"""Subjects, settings and graphs of the three families, small enough to check by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from aigc_calibration.data import CalibrationData
from aigc_calibration.onnx_function import opened_when_called
from aigc_calibration.subject import Subject
from aigc_export.workloads import WORKLOADS
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, DimSpec, StateSpec, TensorSpec
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.pipelines.settings import DiffusionSettings, GanSettings, TextSettings

WIDTH = 5
"""Of a prompt's embedding."""
NULL = 4


def text_settings(context_length: int = 96) -> TextSettings:
    return TextSettings(
        tokenizer=TokenizerInfo(kind="bytes"),
        vocab_size=256,
        context_length=context_length,
        eos_token_ids=(),
        pad_token_id=0,
    )


def text_subject(context_length: int = 96) -> Subject:
    return WORKLOADS["text"].subject(
        Interface(
            inputs=(
                TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"), low=0, high=256),
                TensorSpec(name="pad_length", dtype="int64", shape=("batch",), low=0, high=context_length),
                TensorSpec(name="logits_to_keep", dtype="int64", shape=("kept",), low=0, high="sequence"),
            ),
            outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", "kept", 1)),),
            dims=(
                DimSpec(name="batch", max=64),
                DimSpec(name="kept", max=context_length),
                DimSpec(name="sequence", max=context_length),
                DimSpec(name="past", min=0),
            ),
            state=(
                StateSpec(
                    input="past_key",
                    output="present_key",
                    dtype="float32",
                    shape=("batch", "past", 1),
                    axis=1,
                    kind="growing",
                    step_dim="sequence",
                ),
            ),
        ),
        text_settings(context_length),
    )


def text_graph() -> ir.Model:
    """The cache holds the tokens themselves, as numbers."""
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["new"]),
        helper.make_node("Concat", ["past_key", "new"], ["present_key"], axis=1),
        helper.make_node("Gather", ["new", "logits_to_keep"], ["logits"], axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"]),
        helper.make_tensor_value_info("pad_length", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("logits_to_keep", TensorProto.INT64, ["kept"]),
        helper.make_tensor_value_info("past_key", TensorProto.FLOAT, ["batch", "past", 1]),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "kept", 1]),
        helper.make_tensor_value_info("present_key", TensorProto.FLOAT, ["batch", "past+sequence", 1]),
    ]
    return _model(nodes, inputs, outputs, {"last": np.array([-1])})


def unet_settings(*, classes: int | None = 4, timesteps: int = 1000) -> DiffusionSettings:
    """Classes 0 to 3, and 4 for none."""
    return DiffusionSettings(
        schedule=ScheduleConfig(num_train_timesteps=timesteps),
        sample_shape=(1, 2, 2),
        num_classes=classes,
        null_class=classes,
        default_sampler="ddim",
        default_steps=min(20, timesteps),
        default_guidance_scale=1.0,
    )


def unet_subject(*, classes: int | None = 4, context: bool = False, timesteps: int = 1000) -> Subject:
    inputs = [
        TensorSpec(name="sample", dtype="float32", shape=("batch", 1, 2, 2)),
        TensorSpec(name="timestep", dtype="float32", shape=("batch",)),
    ]
    if classes is not None:
        inputs.append(TensorSpec(name="class_labels", dtype="int64", shape=("batch",), low=0, high=classes + 1))
    if context:
        inputs.append(TensorSpec(name="encoder_hidden_states", dtype="float32", shape=("batch", "tokens", WIDTH)))
    return WORKLOADS["diffusion"].subject(
        Interface(
            inputs=tuple(inputs),
            outputs=(TensorSpec(name="model_output", dtype="float32", shape=("batch", 1, 2, 2)),),
            dims=(DimSpec(name="batch", max=64), DimSpec(name="tokens")),
        ),
        unet_settings(classes=classes, timesteps=timesteps),
    )


def unet_graph(factor: float = 0.5) -> ir.Model:
    """eps = factor x."""
    nodes = [helper.make_node("Mul", ["sample", "factor"], ["model_output"])]
    value = [helper.make_tensor_value_info("sample", TensorProto.FLOAT, ["batch", 1, 2, 2])]
    out = [helper.make_tensor_value_info("model_output", TensorProto.FLOAT, ["batch", 1, 2, 2])]
    return _model(nodes, value, out, {"factor": np.array(factor, np.float32)})


def gan_settings(classes: int = 10) -> GanSettings:
    return GanSettings(latent_size=6, sample_shape=(1, 8, 8), num_classes=classes)


def gan_subject(classes: int = 10) -> Subject:
    return WORKLOADS["gan"].subject(
        Interface(
            inputs=(
                TensorSpec(name="latents", dtype="float32", shape=("batch", 6)),
                TensorSpec(name="class_labels", dtype="int64", shape=("batch",), low=0, high=classes),
            ),
            outputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 6)),),
            dims=(DimSpec(name="batch", max=64),),
        ),
        gan_settings(classes),
    )


def gan_graph() -> ir.Model:
    value = [helper.make_tensor_value_info("latents", TensorProto.FLOAT, ["batch", 6])]
    out = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 6])]
    return _model([helper.make_node("Neg", ["latents"], ["image"])], value, out, {})


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray],
) -> ir.Model:
    graph = helper.make_graph(
        nodes, "toy", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in constants.items()]
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def all_rows(data: CalibrationData, graph: ir.Model) -> dict[str, Array]:
    batches = list(data.batches(opened_when_called(graph, threads=1)))
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def counts(values: Array, of: int) -> Array:
    return np.bincount(values.astype(np.int64), minlength=of)


def check_same_again(make: Callable[[int], CalibrationData], graph: ir.Model, *, samples: int, rows: int) -> None:
    """The same again, other seeds others, and as many as told."""
    digests = [
        b"".join(b[k].tobytes() for b in make(seed).batches(opened_when_called(graph, threads=1)) for k in sorted(b))
        for seed in (0, 0, 1, 2)
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    data, first = make(0), list(make(0).batches(opened_when_called(graph, threads=1)))
    assert data.samples == samples
    assert sum(len(next(iter(b.values()))) for b in first) == data.rows == rows
    assert all(np.isfinite(a).all() for b in first for a in b.values())
