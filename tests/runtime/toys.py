"""Toy models whose results are known by arithmetic, as sessions, engines and bundles. Needs no toolchain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aigc_runtime.bundle.bundle import write_bundle
from aigc_runtime.bundle.manifest import (
    EngineInfo,
    EngineInterface,
    Manifest,
    PipelineInfo,
    QualityResult,
    Reference,
    ReferenceCase,
    ReferenceGeneration,
    ReferenceStep,
    Tolerances,
)
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.compare import Tolerance
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, DimSpec, StateSpec, TensorSpec
from aigc_runtime.generation.chat import ChatInfo
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.io.npy import write_npy
from aigc_runtime.pipelines import make_pipeline
from aigc_runtime.pipelines.replay import run_request
from aigc_runtime.pipelines.settings import DiffusionSettings, GanSettings, TextSettings

DATA = Path(__file__).parent / "data"
CAPACITY = 32
CONTEXT = 32

LM_INPUTS = (
    TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"), low=0, high=256),
    TensorSpec(name="pad_length", dtype="int64", shape=("batch",), low=0, high=CONTEXT),
    TensorSpec(name="logits_to_keep", dtype="int64", shape=("kept",), low=0, high="sequence"),
)
LM_OUTPUTS = (TensorSpec(name="logits", dtype="float32", shape=("batch", "kept", 256)),)
LM_DIMS = (
    DimSpec(name="batch", max=8),
    DimSpec(name="kept", max=CONTEXT),
    DimSpec(name="sequence", max=CONTEXT),
    DimSpec(name="past", min=0, max=CONTEXT),
)
TEXT = TextSettings(
    tokenizer=TokenizerInfo(kind="bytes"),
    vocab_size=256,
    context_length=CONTEXT,
    eos_token_ids=(),
    pad_token_id=0,
)


def lm_state(kind: str) -> tuple[StateSpec, ...]:
    sizes: dict[str, int | str] = {"growing": "past", "buffer": CAPACITY, "elastic": "capacity"}
    size = sizes[kind]
    kind = "buffer" if kind == "elastic" else kind
    return (
        StateSpec(
            input="past_value_0",
            output="present_value_0",
            dtype="float32",
            shape=("batch", 1, size, 1),
            axis=2,
            kind=kind,  # type: ignore[arg-type]
            length_input="past_length" if kind == "buffer" else None,
            step_dim="sequence",
        ),
    )


def stored_interface(interface: Interface) -> EngineInterface:
    """As a manifest holds it."""
    return EngineInterface(
        inputs=interface.inputs,
        outputs=interface.outputs,
        dims=interface.dims,
        state="carried" if interface.state else None,
    )


def next_token(tokens: list[int]) -> int:
    """What the toy language model says: the sum of all tokens modulo 256."""
    return sum(tokens) % 256


def lm_feeds(ids: Any, pad: Any = None, keep: Any = None) -> dict[str, Array]:
    """Feeds of a language model: no padding, and the logits of every place, unless others are given."""
    rows = np.asarray(ids, dtype=np.int64)
    pads = np.zeros(len(rows), dtype=np.int64) if pad is None else np.asarray(pad, dtype=np.int64)
    places = np.arange(rows.shape[1], dtype=np.int64) if keep is None else np.asarray(keep, dtype=np.int64)
    return {"input_ids": rows, "pad_length": pads, "logits_to_keep": places}


def lm_function(values: Mapping[str, Array]) -> dict[str, Array]:
    """The toy language model in numpy, both cache kinds."""
    ids, past = values["input_ids"], values["past_value_0"]
    steps = ids.shape[1]
    held = int(values["past_length"][0]) if "past_length" in values else past.shape[2]
    index = np.arange(steps) + held
    new = np.where(index >= values["pad_length"][:, None], ids, 0).astype(np.float32)
    if "past_length" in values:
        present = past.copy()
        present[:, 0, held : held + steps, 0] = new
        before = past[:, 0, :held, 0].sum(axis=1)
    else:
        present = np.concatenate([past, new[:, None, :, None]], axis=2)
        before = past.sum(axis=(1, 2, 3))
    target = np.mod(np.cumsum(new, axis=1) + before[:, None], 256)[:, values["logits_to_keep"]]
    logits = -np.abs(np.arange(256, dtype=np.float32) - target[:, :, None])
    return {"logits": logits.astype(np.float32), "present_value_0": present}


def lm_interface(kind: str = "growing", context: int = CONTEXT) -> Interface:
    dims = (*LM_DIMS, DimSpec(name="capacity", max=context)) if kind == "elastic" else LM_DIMS
    return Interface(inputs=LM_INPUTS, outputs=LM_OUTPUTS, dims=dims, state=lm_state(kind))


def lm_session(kind: str = "growing", context: int = CONTEXT) -> ArraySession:
    return ArraySession(lm_function, lm_interface(kind, context))


UNET_INPUTS = (
    TensorSpec(name="sample", dtype="float32", shape=("batch", 1, 4, 4)),
    TensorSpec(name="timestep", dtype="float32", shape=("batch",)),
    TensorSpec(name="class_labels", dtype="int64", shape=("batch",), low=0, high=4),
)
UNET_OUTPUTS = (TensorSpec(name="model_output", dtype="float32", shape=("batch", 1, 4, 4)),)
IMAGE_DIMS = (DimSpec(name="batch", max=8),)
DIFFUSION = DiffusionSettings(
    schedule=ScheduleConfig(),
    sample_shape=(1, 4, 4),
    num_classes=3,
    null_class=3,
    default_sampler="ddim",
    default_steps=4,
    default_guidance_scale=1.0,
    class_names=("ant", "honey bee", "cat, wild"),
)


def unet_function(values: Mapping[str, Array]) -> dict[str, Array]:
    shift = values["class_labels"] * np.float32(0.1) + values["timestep"] * np.float32(0.001)
    return {"model_output": values["sample"] * np.float32(0.5) + shift.astype(np.float32)[:, None, None, None]}


def unet_session() -> ArraySession:
    return ArraySession(unet_function, Interface(inputs=UNET_INPUTS, outputs=UNET_OUTPUTS, dims=IMAGE_DIMS))


GAN_INPUTS = (
    TensorSpec(name="latents", dtype="float32", shape=("batch", 4)),
    TensorSpec(name="class_labels", dtype="int64", shape=("batch",), low=0, high=3),
)
GAN_OUTPUTS = (TensorSpec(name="image", dtype="float32", shape=("batch", 1, 2, 2)),)
GAN = GanSettings(latent_size=4, sample_shape=(1, 2, 2), num_classes=3)


def gan_function(values: Mapping[str, Array]) -> dict[str, Array]:
    z = values["latents"] + (values["class_labels"] * np.float32(0.1)).astype(np.float32)[:, None]
    return {"image": np.tanh(z).reshape(-1, 1, 2, 2)}


def gan_session() -> ArraySession:
    return ArraySession(gan_function, Interface(inputs=GAN_INPUTS, outputs=GAN_OUTPUTS, dims=IMAGE_DIMS))


def _toy(name: str) -> tuple[ArraySession, Any, list[dict[str, Array]], dict[str, Any]]:
    if name.startswith("toy_lm"):
        steps = [lm_feeds([ids]) for ids in ([3, 4, 5], [12], [24])]
        request: dict[str, Any] = {"prompts": ["ab"], "max_new_tokens": 6, "seed": 0}
        return lm_session(name.removeprefix("toy_lm_")), TEXT, steps, request
    labels = np.array([0, 2], dtype=np.int64)
    rng = np.random.default_rng(0)
    if name == "toy_unet":
        feeds: dict[str, Array] = {
            "sample": rng.standard_normal((2, 1, 4, 4), dtype=np.float32),
            "timestep": np.array([0, 999], dtype=np.float32),
            "class_labels": labels,
        }
        return unet_session(), DIFFUSION, [feeds], {"class_labels": [0, 1], "seed": 3}
    feeds = {"latents": rng.standard_normal((2, 4), dtype=np.float32), "class_labels": labels}
    return gan_session(), GAN, [feeds], {"class_labels": [0, 1, 2], "seed": 3}


def toy_manifest(name: str) -> tuple[Manifest, dict[str, bytes | Path]]:
    """A bundle's manifest and files around one of the graphs in data/."""
    session, settings, inputs, request = _toy(name)
    files: dict[str, bytes | Path] = {"model.onnx": (DATA / f"{name}.onnx").read_bytes()}
    state = session.new_state(len(next(iter(inputs[0].values()))))
    steps = []
    for i, feeds in enumerate(inputs):
        outputs = session.run(feeds, state)
        names = []
        for side, arrays in (("in", feeds), ("out", outputs)):
            stored = {key: f"ref.{i}.{side}.{key}.npy" for key in arrays}
            files.update({stored[key]: write_npy(array) for key, array in arrays.items()})
            names.append(stored)
        steps.append(ReferenceStep(engine="model", inputs=names[0], outputs=names[1]))
    results = run_request(make_pipeline(session, settings), request)
    files["ref.generation.npy"] = write_npy(next(iter(results.values())))
    text = name.startswith("toy_lm")
    manifest = Manifest(
        format="aigc-bundle",
        format_version=1,
        name=name,
        target="ort-cpu",
        precision="fp32",
        engines={
            "model": EngineInfo(kind="onnxruntime", file="model.onnx", interface=stored_interface(session.interface))
        },
        state={"carried": session.interface.state} if session.interface.state else {},
        files=(),
        shared_files=(),
        assets=(),
        pipeline=PipelineInfo.of(settings),
        tolerances=Tolerances(
            tensor=Tolerance(max_over_rms=1e-4, min_sqnr_db=80.0),
            min_token_agreement=1.0 if text else None,
            min_psnr_db=None if text else 60.0,
            max_quality_drop=0.01,
        ),
        reference=Reference(
            cases=(ReferenceCase(name="case", steps=tuple(steps)),),
            generation=ReferenceGeneration(
                request=request, arrays={}, outputs=dict.fromkeys(results, "ref.generation.npy")
            ),
        ),
        quality=(QualityResult(metric="toy", reference=1.0, bundle=1.0, higher_is_better=True),),
        model_config={},
        provenance={"aigc-export": "0", "created_utc": "now"},
    )
    return manifest, files


def write_toy_bundle(folder: Path, name: str) -> Path:
    """Write the bundle of a toy and return its path."""
    manifest, files = toy_manifest(name)
    write_bundle(folder / name, manifest, files)
    return folder / name


CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}{{ m.content }}{% endfor %}{% if tools %}{{ tools | length }}{% endif %}"
)
CHAT_VECTORS: dict[str, Any] = {
    "format": "aigc-text-vectors",
    "version": 1,
    "made_by": "hand",
    "texts": [{"text": "hi", "ids": [104, 105], "bare_ids": [104, 105], "decoded": "hi"}],
    "chats": [
        {
            "chat": {"messages": [{"role": "user", "content": "hi"}]},
            "now": "2024-02-29T12:30:00",
            "prompt": "uhi",
            "ids": [117, 104, 105],
            "refused": None,
        }
    ],
    "prompts": [],
}


def write_chat_bundle(folder: Path, *, context_length: int = CONTEXT) -> Path:
    """Write the bundle of the toy language model whose chat is written as roles' first letters and contents."""
    manifest, files = toy_manifest("toy_lm_growing")
    chat = ChatInfo(templates={"default": "chat.jinja"}, special_tokens={})
    engine = manifest.engines["model"]
    dims = tuple(d if d.name == "batch" else replace(d, max=context_length) for d in engine.interface.dims)
    changed = replace(
        manifest,
        name="toy_chat",
        engines={"model": replace(engine, interface=replace(engine.interface, dims=dims))},
        pipeline=PipelineInfo.of(replace(TEXT, chat=chat, context_length=context_length)),
        assets=("chat.jinja",),
        reference=replace(manifest.reference, text="ref.text.json"),
    )
    files |= {"chat.jinja": CHAT_TEMPLATE.encode(), "ref.text.json": json.dumps(CHAT_VECTORS).encode()}
    write_bundle(folder, changed, files)
    return folder
