"""What a folder that diffusers wrote says before its weights are read."""

from __future__ import annotations

import math
from pathlib import Path

from aigc_models.sources.diffusers.folder import read_folder
from aigc_models.sources.diffusers.unet import UNET_CLASS
from aigc_models.sources.diffusers.weights import find_component
from aigc_models.sources.outline import Outline, stored_bytes
from aigc_models.weights.stored_weights import StoredWeights

__all__ = ["outline_diffusers"]

_HEADERS = (".safetensors", ".safetensors.index.json")


def outline_diffusers(path: Path) -> Outline:
    """Read the JSON and the headers of the weights. A pickle has no header: its sizes are not known before it is read.

    Args:
        path: of the folder, or of the weights in it.

    Raises:
        CheckpointError: what is not supported, or damaged weights.
        ConfigError: values that make no model.
    """
    found = read_folder(path)
    found.unet.require_supported_channels()
    place = find_component(found.weights)
    schedule = found.scheduler.schedule
    says = (
        f"{found.unet.sample_size} x {found.unet.sample_size} pixels of {found.unet.in_channels} channels; "
        f"sampler {found.scheduler.sampler}, {schedule.num_train_timesteps:,} training steps, "
        f"the model predicts {schedule.prediction_type}",
    )
    known = Outline(
        kind="diffusion", architecture=UNET_CLASS, family=found.kind, notes=(*says, *found.notes, *place.notes)
    )
    if not place.weights.name.endswith(_HEADERS):
        return known
    stored = StoredWeights(place.weights)
    headers = list(stored.headers)
    return Outline(
        kind=known.kind,
        architecture=known.architecture,
        family=known.family,
        parameters=sum(math.prod(tensor.shape) for _, tensor in headers),
        stored=stored_bytes(headers),
        notes=(*known.notes, *stored.notes),
    )
