"""diffusers' own pipelines from text to pictures, tiny and random, and our pipeline over their very modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array, DimSpec, TensorSpec
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.pipelines.text_to_image import TextToImagePipeline
from aigc_runtime.pipelines.text_to_image_settings import TextToImageSettings

torch: Any = pytest.importorskip("torch")
diffusers: Any = pytest.importorskip("diffusers")
transformers: Any = pytest.importorskip("transformers")
read_scheduler: Any = pytest.importorskip("aigc_models.sources.diffusers.scheduler").read_scheduler

WIDTH, TOKENS, LATENT, SCALE = 16, 12, 8, 2
ROLES = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "pndm": ("PNDM", {"skip_prk_steps": True, "steps_offset": 1, "set_alpha_to_one": False}),
    "ddim": ("DDIM", {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}),
    "euler": ("EulerDiscrete", {"steps_offset": 1, "timestep_spacing": "leading"}),
    "euler linspace": ("EulerDiscrete", {}),
    "euler of velocities": ("EulerDiscrete", {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    "euler ancestral": ("EulerAncestralDiscrete", {"steps_offset": 1, "timestep_spacing": "leading"}),
    "heun": ("HeunDiscrete", {}),
    "dpm-solver++": ("DPMSolverMultistep", {}),
    "dpm-solver++ karras": ("DPMSolverMultistep", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistep", {}),
    "lcm": ("LCM", {}),
}
"""As `scheduler_config.json` of published pipelines has them."""


def make_tokenizer() -> Any:
    characters = [chr(code) for code in range(33, 127)]
    merges = [("l", "i"), ("t", "h"), ("th", "e</w>"), ("a", "t</w>"), ("h", "o")]
    tokens = [*characters, *(f"{c}</w>" for c in characters), *("".join(m) for m in merges)]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def make_scheduler(name: str) -> Any:
    kind, options = SCHEDULERS[name]
    return getattr(diffusers, f"{kind}Scheduler")(**{**BETAS, **options})


def shaken(module: Any) -> Any:
    """Norms and biases random, too, so that none is mixed up."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module.eval()


def make_components(*, channels: int = 4, **unet: Any) -> dict[str, Any]:
    """Text encoder, UNet and autoencoder."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    text = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    denoiser = diffusers.UNet2DConditionModel(
        **{
            "sample_size": LATENT,
            "in_channels": channels,
            "out_channels": 4,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 2,
            "cross_attention_dim": WIDTH,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            **unet,
        }
    )
    autoencoder = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * SCALE,
        up_block_types=("UpDecoderBlock2D",) * SCALE,
        latent_channels=4,
        scaling_factor=0.3,
        sample_size=SCALE * LATENT,
    )
    return {
        "tokenizer": tokenizer,
        "text_encoder": shaken(transformers.CLIPTextModel(text)),
        "unet": shaken(denoiser),
        "vae": shaken(autoencoder),
    }


def make_pipeline(components: Mapping[str, Any], scheduler: str = "ddim", kind: str = "StableDiffusion") -> Any:
    """A pipeline of diffusers."""
    extra = {} if kind == "StableDiffusion" else {"image_encoder": None}
    pipeline = getattr(diffusers, f"{kind}Pipeline")(
        **components,
        scheduler=make_scheduler(scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **extra,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _session(function: Callable[..., Mapping[str, Any]], inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
    def call(values: Mapping[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            found = function(**{name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in values.items()})
        return {name: tensor.numpy() for name, tensor in found.items()}

    dims = (
        DimSpec(name="batch", max=64),
        DimSpec(name="height", min=2, max=64, multiple_of=2),
        DimSpec(name="width", min=2, max=64, multiple_of=2),
    )
    specs = [
        tuple(
            TensorSpec(name=name, dtype="int64" if name == "input_ids" else "float32", shape=("batch", *shape))
            for name, shape in side.items()
        )
        for side in (inputs, outputs)
    ]
    used = {size for side in specs for spec in side for size in spec.shape if isinstance(size, str)}
    kept = tuple(dim for dim in dims if dim.name in used)
    return ArraySession(call, Interface(inputs=specs[0], outputs=specs[1], dims=kept))


def sessions(components: Mapping[str, Any]) -> dict[str, ArraySession]:
    """Sessions over the modules, by role."""
    text, unet, vae = components["text_encoder"], components["unet"], components["vae"]
    hw = ("height", "width")

    def denoise(sample: Any, timestep: Any, encoder_hidden_states: Any, timestep_cond: Any = None) -> dict[str, Any]:
        given = unet(sample, timestep, encoder_hidden_states, timestep_cond=timestep_cond)
        return {"model_output": given.sample}

    def encode(image: Any) -> dict[str, Any]:
        found = vae.encode(image).latent_dist
        return {"mean": found.mean, "std": found.std}

    cond = unet.config.time_cond_proj_dim
    large = (f"{SCALE}*height", f"{SCALE}*width")
    return {
        "text_encoder": _session(
            lambda input_ids: {"encoder_hidden_states": text(input_ids).last_hidden_state},
            {"input_ids": (TOKENS,)},
            {"encoder_hidden_states": (TOKENS, WIDTH)},
        ),
        "unet": _session(
            denoise,
            {
                "sample": (unet.config.in_channels, *hw),
                "timestep": (),
                "encoder_hidden_states": (TOKENS, WIDTH),
                **({} if cond is None else {"timestep_cond": (cond,)}),
            },
            {"model_output": (4, *hw)},
        ),
        "vae_decoder": _session(
            lambda latent: {"image": vae.decode(latent).sample}, {"latent": (4, *hw)}, {"image": (3, *large)}
        ),
        "vae_encoder": _session(
            encode,
            {"image": (3, *hw)},
            {"mean": (4, "height//2", "width//2"), "std": (4, "height//2", "width//2")},
        ),
    }


def settings_of(components: Mapping[str, Any], scheduler: str = "ddim", **changes: Any) -> TextToImageSettings:
    made = make_scheduler(scheduler)
    read = read_scheduler({"_class_name": type(made).__name__, **dict(made.config), **_bounded(made)})
    tokenizer = components["tokenizer"]
    given: dict[str, Any] = {
        "schedule": read.schedule,
        "default_sampler": read.sampler,
        "sampler_config": read.config,
        "latent_channels": 4,
        "latent_size": (LATENT, LATENT),
        "latent_scale": SCALE,
        "scaling_factor": components["vae"].config.scaling_factor,
        "tokenizer": TokenizerInfo(kind="huggingface", file="tokenizer.json"),
        "vocab_size": len(tokenizer),
        "prompt_tokens": TOKENS,
        "pad_token_id": tokenizer.pad_token_id,
        "default_steps": 6,
        "default_guidance_scale": 7.5,
        "takes_picture": components["unet"].config.in_channels == 9,
        **changes,
    }
    return TextToImageSettings(**given)


def _bounded(scheduler: Any) -> dict[str, Any]:
    """No bound at all, as JSON has it."""
    return {"lambda_min_clipped": None} if "lambda_min_clipped" in scheduler.config else {}


def our_pipeline(
    components: Mapping[str, Any], scheduler: str = "ddim", roles: tuple[str, ...] = ROLES, **changes: Any
) -> TextToImagePipeline:
    """Our pipeline over the same modules."""
    tokenizer = components["tokenizer"].backend_tokenizer.to_str().encode()
    found = sessions(components)
    program = OpenProgram({role: found[role] for role in roles}, assets={"tokenizer.json": tokenizer})
    return TextToImagePipeline(program, settings_of(components, scheduler, **changes), {role: role for role in roles})
