"""What a checkpoint of one of our own models says before its weights are read."""

from __future__ import annotations

import math
from pathlib import Path

from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.outline import Outline, check_weights, stored_bytes
from aigc_models.sources.shipped import ENTRIES
from aigc_models.text_assets import BYTES
from aigc_models.weights.checkpoint import load_checkpoint
from aigc_models.weights.config_file import check_record
from aigc_models.weights.stored_weights import StoredWeights

__all__ = ["outline_checkpoint"]

LANGUAGE_MODEL = "text"
"""The kind whose configuration says which weights it has."""
_BUFFERS = (
    *("running_mean", "running_var", "num_batches_tracked"),  # of a batch normalization
    *("w_avg", "resample_filter", "noise_const"),  # of a StyleGAN2
)
"""What modules keep beside their parameters."""


def outline_checkpoint(path: Path, family: str) -> Outline:
    """Read config.json and the headers of the weights; of a language model, check that they belong together.

    Args:
        path: of the folder, or of the weights in it.
        family: that it must be of.

    Raises:
        CheckpointError: damaged or foreign files, or unknown fields.
        ConfigError: sizes that make no model.
    """
    found = load_checkpoint(path)
    assert isinstance(found.tensors, StoredWeights)
    entry = ENTRIES[family]
    check_record(found.config, family, entry.fields)
    tensors = [(name, tensor.shape) for name, tensor in found.tensors.headers]
    config = LMConfig.from_dict(found.config["model"]) if entry.kind == LANGUAGE_MODEL else None
    parameters = sum(math.prod(shape) for name, shape in tensors if not name.endswith(_BUFFERS))
    if config is not None:
        parameters = check_weights(tensors, config, source=str(found.path))
    return Outline(
        kind=entry.kind,
        architecture=family,
        family=family,
        parameters=parameters,
        stored=stored_bytes(found.tensors.headers),
        config=config,
        text=BYTES if entry.kind == LANGUAGE_MODEL else None,
        notes=found.notes,
    )
