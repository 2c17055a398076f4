"""What a path of diffusers is: a pipeline by its index, or a component by its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aigc_models.sources.diffusers.autoencoder import VAES
from aigc_models.sources.diffusers.components import INDEX_FILE, pipeline_of, read_json
from aigc_models.sources.diffusers.folder import PIPELINES, UNETS
from aigc_models.sources.diffusers.pipeline_forms import FORMS
from aigc_models.sources.diffusers.text_encoder import CLIP_CLASS, is_clip_text
from aigc_models.weights.weights_file import CONFIG_FILE
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown
from aigc_runtime.io.user_file import is_folder, path_exists

__all__ = ["form_of", "is_diffusers"]

_PIPELINES: Mapping[str, str] = {
    **dict.fromkeys(PIPELINES, "unet"),
    **dict.fromkeys(FORMS, "text_to_image"),
}
_COMPONENTS: Mapping[str, str] = {
    **dict.fromkeys(UNETS, "unet"),
    **dict.fromkeys(VAES, "vae"),
    CLIP_CLASS: "text_encoder",
}
"""Class -> the form in which it is read."""


def is_diffusers(path: Path, config: Mapping[str, Any] | None) -> bool:
    """Whether a path is a pipeline of diffusers, or a component of one."""
    if path_exists(path / INDEX_FILE):
        return True
    return config is not None and (config.get("_class_name") in list(_COMPONENTS) or is_clip_text(config))


def form_of(path: Path) -> str:
    """Find in which form a path is read: `unet`, `text_to_image`, `vae` or `text_encoder`.

    Args:
        path: what `is_diffusers` said yes to.

    Raises:
        CheckpointError: a pipeline that is not supported; names its class, and says what is.
    """
    if path_exists(path / INDEX_FILE):
        kind, index = pipeline_of(path)
        if kind not in _PIPELINES:
            raise CheckpointError(
                f"{INDEX_FILE}: _class_name is {shown(index.get('_class_name'))}, which is not supported",
                hint=f"supported: {', '.join(_PIPELINES)}; a component that is one of {', '.join(_COMPONENTS)} can be "
                "named alone, and modules of your own come in by a function: aigc-export export file.py:function",
            )
        return _PIPELINES[kind]
    values = read_json((path if is_folder(path) else path.parent) / CONFIG_FILE)
    return _COMPONENTS[CLIP_CLASS if is_clip_text(values) else str(values.get("_class_name"))]
