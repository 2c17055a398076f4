"""A toy from text to pictures whose engines are formulas, with bytes as tokens. Needs no toolchain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from aigc_runtime.bundle.bundle import write_bundle
from aigc_runtime.bundle.manifest import PipelineInfo, Reference, ReferenceCase, ReferenceGeneration, ReferenceStep
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array, DimSpec, TensorSpec
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.io.npy import write_npy
from aigc_runtime.pipelines.text_to_image import TextToImagePipeline
from aigc_runtime.pipelines.text_to_image_settings import PromptInfo, TextToImageSettings

from .. import toys

SCALE, TOKENS = 4, 10
ROLES = {role: role for role in ("text_encoder", "unet", "vae_decoder", "vae_encoder")}
FROM_TEXT = {role: engine for role, engine in ROLES.items() if role != "vae_encoder"}
SETTINGS = TextToImageSettings(
    schedule=ScheduleConfig(clip_sample=False, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    latent_channels=2,
    latent_size=(4, 6),
    latent_scale=SCALE,
    scaling_factor=0.5,
    shift_factor=0.1,
    tokenizer=TokenizerInfo(kind="bytes"),
    vocab_size=256,
    prompt_tokens=TOKENS,
    pad_token_id=0,
    default_sampler="ddim",
    default_steps=3,
    default_guidance_scale=2.0,
)


def spec(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=("batch", *shape))


def read(values: Mapping[str, Array]) -> dict[str, Array]:
    ids = values["input_ids"].astype(np.float32)
    return {"encoder_hidden_states": np.stack([np.sin(ids), np.cos(ids), ids / 256], axis=2)}


def denoise(values: Mapping[str, Array]) -> dict[str, Array]:
    x, t = values["sample"], values["timestep"][:, None, None, None] / np.float32(1000)
    said = values["encoder_hidden_states"].mean(axis=(1, 2))[:, None, None, None]
    return {"model_output": np.tanh(x[:, :2] * (1 - t) + said + x[:, 2:].sum(axis=1, keepdims=True))}


def decode(values: Mapping[str, Array]) -> dict[str, Array]:
    z = np.tanh(values["latent"]).repeat(SCALE, axis=2).repeat(SCALE, axis=3)
    return {"image": np.concatenate([z, z.mean(axis=1, keepdims=True)], axis=1)}


def encode(values: Mapping[str, Array]) -> dict[str, Array]:
    n, _, h, w = values["image"].shape
    small = values["image"].reshape(n, 3, h // SCALE, SCALE, w // SCALE, SCALE).mean(axis=(3, 5))[:, :2]
    return {"mean": small, "std": np.full_like(small, 0.05)}


def program(
    *, rows: tuple[int, int | None] = (1, 8), takes_picture: bool = False, largest: int | None = 64, least: int = 1
) -> OpenProgram:
    batch = DimSpec(name="batch", min=rows[0], max=rows[1])
    sides = tuple(DimSpec(name=name, min=2, max=64, multiple_of=2) for name in ("height", "width"))
    decoded = tuple(DimSpec(name=name, min=least, max=largest) for name in ("height", "width"))
    channels = 5 if takes_picture else 2
    interfaces: dict[str, Any] = {
        "text_encoder": (
            read,
            (TensorSpec(name="input_ids", dtype="int64", shape=("batch", TOKENS), low=0, high=256),),
            (spec("encoder_hidden_states", TOKENS, 3),),
            (batch,),
        ),
        "unet": (
            denoise,
            (spec("sample", channels, "height", "width"), spec("timestep"), spec("encoder_hidden_states", TOKENS, 3)),
            (spec("model_output", 2, "height", "width"),),
            (batch, *sides),
        ),
        "vae_decoder": (
            decode,
            (spec("latent", 2, "height", "width"),),
            (spec("image", 3, "4*height", "4*width"),),
            (batch, *decoded),
        ),
        "vae_encoder": (
            encode,
            (spec("image", 3, "height", "width"),),
            (spec("mean", 2, "height//4", "width//4"), spec("std", 2, "height//4", "width//4")),
            (batch, *(DimSpec(name=name, min=4, max=256, multiple_of=4) for name in ("height", "width"))),
        ),
    }
    return OpenProgram(
        {
            name: ArraySession(function, Interface(inputs=inputs, outputs=outputs, dims=dims))
            for name, (function, inputs, outputs, dims) in interfaces.items()
        }
    )


def pipeline(
    settings: TextToImageSettings = SETTINGS, roles: Mapping[str, str] = ROLES, **given: Any
) -> TextToImagePipeline:
    return TextToImagePipeline(program(takes_picture=settings.takes_picture, **given), settings, roles)


XL_SETTINGS = replace(
    SETTINGS,
    second=PromptInfo(tokenizer=TokenizerInfo(kind="bytes"), vocab_size=256, pad_token_id=1),
    zero_negative=True,
)
XL_ROLES = {**ROLES, "text_encoder_2": "text_encoder_2"}


def read_twice(values: Mapping[str, Array]) -> dict[str, Array]:
    ids = values["input_ids"].astype(np.float32)
    whole = ids.sum(axis=1, keepdims=True) / 1000
    return {"encoder_hidden_states": np.stack([np.sin(2 * ids), ids / 128], axis=2), "text_embeds": whole}


def denoise_sized(values: Mapping[str, Array]) -> dict[str, Array]:
    said = values["text_embeds"][:, 0] + values["time_ids"] @ np.arange(1, 7, dtype=np.float32) / 1000
    return {"model_output": denoise(values)["model_output"] + np.tanh(said)[:, None, None, None]}


def xl_program() -> OpenProgram:
    """The same with a second text encoder, and a UNet that sees sizes."""
    sessions = dict(program().sessions)
    text, unet = sessions["text_encoder"].interface, sessions["unet"].interface
    outputs = (spec("encoder_hidden_states", TOKENS, 2), spec("text_embeds", 1))
    sessions["text_encoder_2"] = ArraySession(read_twice, replace(text, outputs=outputs))
    inputs = (*unet.inputs[:2], spec("encoder_hidden_states", TOKENS, 5), spec("text_embeds", 1), spec("time_ids", 6))
    sessions["unet"] = ArraySession(denoise_sized, replace(unet, inputs=inputs))
    return OpenProgram(sessions)


def xl_pipeline() -> TextToImagePipeline:
    return TextToImagePipeline(xl_program(), XL_SETTINGS, XL_ROLES)


def feeds(interface: Interface) -> dict[str, Array]:
    """Small inputs of every engine."""
    rng = np.random.default_rng(0)
    sizes = {"batch": 1, "height": 4, "width": 4}
    made: dict[str, Array] = {}
    for tensor in interface.inputs:
        shape = tuple(size if isinstance(size, int) else sizes[size] for size in tensor.shape)
        made[tensor.name] = rng.integers(0, 256, shape) if tensor.dtype == "int64" else rng.random(shape, np.float32)
    return made


def write(
    folder: Path,
    settings: TextToImageSettings = SETTINGS,
    assets: Mapping[str, bytes] = MappingProxyType({}),
    text: bytes | None = None,
) -> Path:
    """A bundle whose manifest is that of a model from text to pictures; its engines are another's, and never run.

    Args:
        folder: that it is written into.
        settings: of its pipeline.
        assets: the files of its tokenizers.
        text: the file of prompts with their token ids.
    """
    made, files = toys.toy_manifest("toy_gan")
    opened = pipeline()
    kept = {f"{name}.onnx": files["model.onnx"] for name in ROLES}
    steps = []
    for name, session in opened.program.sessions.items():
        fed = feeds(session.interface)
        given = session.run(fed)
        kept |= {f"{name}.{tensor}.npy": write_npy(array) for tensor, array in {**fed, **given}.items()}
        steps.append(
            ReferenceStep(
                engine=name,
                inputs={tensor: f"{name}.{tensor}.npy" for tensor in fed},
                outputs={tensor: f"{name}.{tensor}.npy" for tensor in given},
            )
        )
    request = {"prompt": "a", "steps": 2}
    kept["images.npy"] = write_npy(opened.generate("a", steps=2, output="images"))
    manifest = replace(
        made,
        name="toy_text_to_image",
        engines={
            name: replace(
                made.engines["model"], file=f"{name}.onnx", interface=toys.stored_interface(session.interface)
            )
            for name, session in opened.program.sessions.items()
        },
        pipeline=PipelineInfo.of(settings, ROLES),
        assets=tuple(assets),
        reference=Reference(
            text=None if text is None else "ref.text.json",
            cases=(ReferenceCase(name="case", steps=tuple(steps)),),
            generation=ReferenceGeneration(request=request, arrays={}, outputs={"images": "images.npy"}),
        ),
    )
    kept |= {**assets, **({} if text is None else {"ref.text.json": text})}
    write_bundle(folder / "toy_text_to_image", manifest, kept)
    return folder / "toy_text_to_image"
