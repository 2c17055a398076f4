"""What a folder that diffusers wrote says before its weights are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from aigc_models.families.clip_text_config import ClipTextConfig
from aigc_models.sources.diffusers.autoencoder import VAE_CLASS, read_autoencoder
from aigc_models.sources.diffusers.components import read_json
from aigc_models.sources.diffusers.folder import read_folder
from aigc_models.sources.diffusers.text_encoder import CLIP_CLASS, clip_tensor, read_clip_text
from aigc_models.sources.diffusers.text_to_image import TEXT_ENCODER, TEXT_ENCODER_2, read_text_to_image
from aigc_models.sources.diffusers.weights import FILES, TRANSFORMERS_FILES, find_component
from aigc_models.sources.diffusers.which import form_of
from aigc_models.sources.outline import Outline, stored_bytes
from aigc_models.weights.stored_weights import StoredWeights
from aigc_models.weights.weights_file import CONFIG_FILE
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.io.user_file import is_folder

__all__ = ["outline_diffusers"]

_HEADERS = (".safetensors", ".json")
"""Ends of the names of weights whose headers say their sizes."""


def outline_diffusers(path: Path) -> Outline:
    """Read the JSON and the headers of the weights. A pickle has no header: its sizes are not known before it is read.

    Args:
        path: of the folder, or of the weights in it.

    Raises:
        CheckpointError: what is not supported, or damaged weights.
        ConfigError: values that make no model, or components that do not belong together.
    """
    return _OUTLINES[form_of(path)](path)


def _outline_unet(path: Path) -> Outline:
    found = read_folder(path)
    found.unet.require_supported_channels()
    says = (
        f"{found.unet.sample_size} x {found.unet.sample_size} pixels of {found.unet.in_channels} channels; "
        f"{_sampling(found.scheduler.sampler, found.scheduler.schedule)}",
    )
    known = Outline(
        kind="diffusion", architecture=str(found.config["unet"]["_class_name"]), family=found.kind, notes=says
    )
    return _with_weights(known, {"": found.weights}, notes=found.notes)


def _outline_text_to_image(path: Path) -> Outline:
    found = read_text_to_image(path)
    height, width = found.settings.size
    says = (
        f"{width} x {height} pixels; prompts of up to {found.settings.prompt_tokens - 2} tokens; "
        f"{_sampling(found.settings.default_sampler, found.settings.schedule)}, "
        f"guidance {found.settings.default_guidance_scale:g}",
    )
    known = Outline(kind="text_to_image", architecture=found.kind, family=found.kind, notes=says, several_parts=True)
    return _with_weights(known, found.folders, notes=found.notes)


def _outline_vae(path: Path) -> Outline:
    values = _config(path)
    config = read_autoencoder(values)
    sizes = f"{config.latent_channels}, 1/{config.downscale} as wide"
    says = f"pictures of {config.in_channels} channels to latents of {sizes}"
    kind = str(values.get("_class_name", VAE_CLASS))
    return _with_weights(Outline(kind="tensors", architecture=kind, family=kind, notes=(says,)), {"": path})


def _outline_text_encoder(path: Path) -> Outline:
    config: ClipTextConfig = read_clip_text(_config(path))
    says = f"{config.max_position_embeddings} of {config.vocab_size:,} tokens to states of {config.hidden_size} numbers"
    known = Outline(kind="tensors", architecture=CLIP_CLASS, family=CLIP_CLASS, notes=(says,))
    return _with_weights(known, {TEXT_ENCODER: path})


_OUTLINES = {
    "unet": _outline_unet,
    "text_to_image": _outline_text_to_image,
    "vae": _outline_vae,
    "text_encoder": _outline_text_encoder,
}


def _sampling(sampler: str, schedule: ScheduleConfig) -> str:
    return (
        f"sampler {sampler}, {schedule.num_train_timesteps:,} training steps, "
        f"the model predicts {schedule.prediction_type}"
    )


def _config(path: Path) -> dict[str, object]:
    return read_json((path if is_folder(path) else path.parent) / CONFIG_FILE)


def _with_weights(known: Outline, components: Mapping[str, Path], *, notes: tuple[str, ...] = ()) -> Outline:
    """Add what the headers of the weights say, unless one of the files has none."""
    stored: dict[str, int] = {}
    parameters: int | None = 0
    found, says = [*known.notes, *notes], []
    for name, path in components.items():
        clip = name in (TEXT_ENCODER, TEXT_ENCODER_2)
        place = find_component(path, TRANSFORMERS_FILES if clip else FILES)
        found += place.notes
        if not place.weights.name.endswith(_HEADERS):
            parameters = None
            continue
        weights = StoredWeights(place.weights)
        headers = [(n, tensor) for n, tensor in weights.headers if not clip or clip_tensor(n) is not None]
        own = sum(math.prod(tensor.shape) for _, tensor in headers)
        says += [f"{name} {own:,}"] if name else []
        parameters = None if parameters is None else parameters + own
        for kind, size in stored_bytes(headers).items():
            stored[kind] = stored.get(kind, 0) + size
        found += weights.notes
    if len(says) > 1:
        found.append(f"parameters: {', '.join(says)}")
    return Outline(
        kind=known.kind,
        architecture=known.architecture,
        family=known.family,
        parameters=parameters,
        stored={} if parameters is None else dict(sorted(stored.items(), key=lambda item: -item[1])),
        notes=tuple(found),
        several_parts=known.several_parts,
    )
